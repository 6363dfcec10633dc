import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.retrieval import Datastore, make_encoder
from retentive.retrieval.encoders.lexical import STEMMERS, STOP_WORDS, LexicalEncoder
from retentive.retrieval.encoders.words import split_words

NFD = "Tiếng Việt, 한국어"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("हिन्दी में शब्द", ["हिन्दी", "में", "शब्द"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("ไทยนี้", ["ไ", "ท", "ย", "นี้"]),
        ("العَرَبِيَّة", ["العربية"]),
        ("שָׁלוֹם צה״ל", ["שלום", "צהל"]),
        (unicodedata.normalize("NFD", NFD), ["tiếng", "việt", "한국어"]),
        (NFD, ["tiếng", "việt", "한국어"]),
        ("東京タワーのＡＢＣ１２ ﾊﾟ", ["東", "京", "タワー", "の", "abc12", "パ"]),
        ("straße STRASSE so\u00adft", ["strasse", "strasse", "soft"]),
        ('צה״ל צה"ל צהל ג׳ירפה ג\'ירפה "שלום"', [*["צהל"] * 3, *["גירפה"] * 2, "שלום"]),
        ("\u0130stanbul istanbul i\u0307stanbul ISPARTA Isparta ısparta", [*["istanbul"] * 3, *["isparta"] * 3]),
        ("\u012e\u0307\u0303 \u012f\u0303 i\u0307\u0301 í j\u0307", ["\u012f\u0303"] * 2 + ["í", "í", "j"]),
        ("don't don’t don\u02bct п'ять п’ять п\u02bcять", [*["don", "t"] * 3, *["п", "ять"] * 3]),
        ("ΟΔΟΣ οδός Οδός ὁδὸς", ["οδοσ"] * 4),
        ("٣٤ ۳۴ ३४ 34 H₂O word¹", [*["34"] * 4, "h2o", "word", "1"]),
        ("น้ำ น้\u0e4d\u0e32 นา", ["น้", "\u0e4d\u0e32", "น้", "\u0e4d\u0e32", "น", "า"]),
        ("كـتـاب كِتَٰبٌ قُلۡ ܫܠܳܡܐ", ["كتاب", "كتب", "قل", "ܫܠܡܐ"]),
        ("می\u200cخواهم \u212aelvin o\ufb03ce wo\ufe0frd", ["میخواهم", "kelvin", "office", "word"]),
        ("os.path can't a_b ﬁx ㎏ ﷺ", ["os", "path", "can", "t", "a_b", "fix", "kg", *["صلى", "الله", "عليه", "وسلم"]]),
        ("🦉 … \u00ad", []),
    ],
)
def test_words_are_whole_and_their_keys_fold(text, keys):
    assert split_words(text).keys == keys


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60), st.text(alphabet="aZ0_ .\n", max_size=20)
)
def test_words_lie_in_the_text_one_after_the_other(foreign, plain):
    for text in (foreign, plain, plain + foreign + plain):
        words = split_words(text)
        assert len(words.keys) == len(words.begins) == len(words.ends)
        assert words.begins == sorted(words.begins)
        assert all(begin < end <= len(text) for begin, end in zip(words.begins, words.ends, strict=True))
        assert not any(key.isspace() or not key or key != "".join(key.split()) for key in words.keys)
        for key, begin, end in zip(words.keys, words.begins, words.ends, strict=True):
            assert key in split_words(text[begin:end]).keys, "a word is found by itself"


def test_normal_forms_and_case_do_not_change_keys():
    spacing = "\u037a"  # in NFKC a space and a mark
    forms = [partial(unicodedata.normalize, form) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    hangul = range(0xAC00, 0xD7A4)  # thousands that are alike
    for character in map(chr, [*range(0x80, hangul.start), *hangul[::97], *range(hangul.stop, 0x30000)]):
        if unicodedata.category(character) in ("Cs", "Cn", "Co") or character == spacing:
            continue
        alone = "α" if unicodedata.category(character)[0] == "M" else ""  # no mark is a word
        text = f"{alone}{character} ก{character}"
        others = {change(text) for change in (*forms, str.upper, str.lower, str.title, str.casefold)} - {text}
        keys = split_words(text).keys if others else []
        for other in others:
            assert split_words(other).keys == keys, (hex(ord(character)), other)


def test_stemmers_know_the_dotless_letter_and_keys_do_not():
    assert LexicalEncoder(stem="turkish").split("kitapları kitap").keys == ["kitap", "kitap"]
    assert "ı" not in LexicalEncoder(stem="turkish").split("sıkıntı").keys[0]


@given(st.text(alphabet=st.characters(max_codepoint=0x24F), max_size=40))
def test_lines_do_not_change_words(text):
    lines = text.split("\n")
    assert split_words(text).keys == [key for line in lines for key in split_words(line).keys]


def test_stems_and_stop_words_on_request():
    text = "The runners were running"
    assert LexicalEncoder().split(text).keys == ["the", "runners", "were", "running"]
    assert LexicalEncoder(stem="english").split(text).keys == ["the", "runner", "were", "run"]
    both = LexicalEncoder(stem="english", stop_words="english")
    assert both.split(text).keys == ["runner", "were", "run"]
    assert [text[begin:end] for begin, end in zip(both.split(text).begins, both.split(text).ends, strict=True)][-1] == (
        "running"
    )
    assert LexicalEncoder.from_settings(both.settings()).fingerprint() == both.fingerprint()
    assert len({one.fingerprint() for one in (LexicalEncoder(), LexicalEncoder(stem="english"), both)}) == 3
    with pytest.raises(ValueError, match=r"stem must be one of arabic, .*, but is 'klingon'"):
        LexicalEncoder(stem="klingon")


def test_a_store_by_stems_finds_other_forms_and_marks_them(tmp_path):
    encoder = make_encoder("lexical", stem="english", stop_words="english")
    Datastore.build([("a", "The owls were hunting."), ("b", "the the the")], tmp_path / "s", encoder=encoder)
    store = Datastore.open(tmp_path / "s")
    (answer,) = store.answers("hunted the owl")
    assert [answer.text[begin:end] for begin, end in answer.matches] == ["owls", "hunting"]
    assert store.answers("the") == []
    with pytest.raises(ValueError, match="encoder lexical has the options stem and stop_words, but was given depth"):
        make_encoder("lexical", depth=3)


@pytest.mark.parametrize("language", STEMMERS)
def test_every_language_has_its_stemmer(language):
    stops = language if language in STOP_WORDS else None
    assert LexicalEncoder(stem=language, stop_words=stops).split("wordless").keys


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 1000])
def test_a_word_is_found_in_the_chunk_in_which_it_begins_wherever_chunks_fall(tmp_path, chunk_size):
    text = "naïve straightforward words across borders, ganz große Wörter"
    store = Datastore.build([("a", text)], tmp_path / "s", chunk_size=chunk_size)
    words = split_words(text)
    for key, begin in zip(words.keys, words.begins, strict=True):
        place = len(text[:begin].encode())
        found = store.search(key, k=1)
        assert found.ids.tolist() == [[place // chunk_size]]
        (answer,) = found
        assert any(answer.text[first:last].casefold() in text.casefold() for first, last in answer.matches)
        assert (answer.line, answer.column) == (1, begin + 1)
