"""`memprof models`: the named shapes, with exact parameter counts."""

from __future__ import annotations


def models() -> None:
    """The named LLaMA shapes, with their exact parameter counts."""
    from memprof.cli.listing import print_listing
    from memprof.shapes import SHAPES

    columns = ("Model", "Parameters", "Hidden", "MLP", "Heads", "KV heads", "Layers", "Vocabulary", "Head")
    rows = [
        (
            name,
            f"{shape.num_parameters:,}",
            str(shape.hidden_size),
            str(shape.intermediate_size),
            str(shape.num_attention_heads),
            str(shape.num_key_value_heads),
            str(shape.num_hidden_layers),
            str(shape.vocab_size),
            "tied" if shape.tie_word_embeddings else "own",
        )
        for name, shape in SHAPES.items()
    ]
    print_listing(columns, rows, text_columns=(0, 8))
