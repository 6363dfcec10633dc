"""Masks over the key-value cache."""

from laws.families import random_tokens, small_model


def test_the_layers_of_a_call_share_one_mask_of_order():
    model, tokens = small_model("transformer", window=3), random_tokens(2, 8)
    layout = model.decoder.layout(tokens, None)
    _, state = model.decoder(model.decoder.embed(tokens, layout), None, layout)
    assert len(layout.masks_of_order) == 1 < len(state.layers)
    (mask,) = layout.masks_of_order.values()
    assert mask.bias is not None
    assert mask.bias.isfinite()[0, 0].sum(1).tolist() == [1, 2, 3, 3, 3, 3, 3, 3]
