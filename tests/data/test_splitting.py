from hypothesis import given
from hypothesis import strategies as st

from retentive.data.splitting import draw, split_of


@given(st.binary(), st.floats(0, 1, exclude_max=True), st.integers(0, 9))
def test_a_larger_share_only_adds_held_out_documents(content, fraction, seed):
    if split_of(content, heldout_fraction=fraction, seed=seed) == "heldout":
        assert split_of(content, heldout_fraction=(1 + fraction) / 2, seed=seed) == "heldout"
    assert split_of(content, heldout_fraction=0.0, seed=seed) == "train"
    assert 0 <= draw(content, "purpose") < 1


def test_the_share_is_about_what_was_asked_and_seeds_differ():
    documents = [f"document {i}".encode() for i in range(4000)]
    held = [{d for d in documents if split_of(d, heldout_fraction=0.1, seed=seed) == "heldout"} for seed in (0, 1)]
    for chosen in held:
        assert 300 < len(chosen) < 500
    assert len(held[0] & held[1]) < 100


def test_the_rule_never_changes():
    # Another rule would move documents of a user's corpus from one split to the other.
    assert draw(b"a document", "heldout 0") == 0.893138537490733
