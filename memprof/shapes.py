"""LLaMA shapes: what a model is made of, before any tensor exists.

Sources: 9m to 1b and 7b are the configs of the ReLoRA and GaLore repositories; 13b that of APOLLO, LoQT and SLTrain;
llama2, llama3 and later are Hugging Face's published configs. The papers' vocabulary is 32000 (GaLore) or 32100
(ReLoRA); ours is GaLore's unless `vocab_size` says otherwise.
"""

from dataclasses import asdict, dataclass, fields, replace

from memprof.errors import MemprofError, shown
from memprof.method import Role, Weight

BOUNDS = {
    "hidden_size": 65_536,
    "intermediate_size": 262_144,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 1_024,
    "num_key_value_heads": 1_024,
    "head_dim": 1_024,
    "vocab_size": 2_000_000,
}
MAX_PARAMETERS = 10**13


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """A LLaMA's dimensions, under Hugging Face's field names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        for name, most in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise MemprofError(f"{name} {value!r} is out of range; it must be an integer from 1 to {most}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise MemprofError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise MemprofError(f"head_dim {self.head_dim} must be even for rotary embeddings")
        if self.num_parameters > MAX_PARAMETERS:
            raise MemprofError(f"{self.num_parameters} parameters are more than memprof takes ({MAX_PARAMETERS})")

    @property
    def attention_size(self) -> int:
        """Width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key (or value) heads together."""
        return self.num_key_value_heads * self.head_dim

    @property
    def num_parameters(self) -> int:
        """V h (once if tied) + L (h hd (2a + 2kv) + 3 h i + 2 h) + h."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        attention = 2 * self.hidden_size * (self.attention_size + self.kv_size)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return embeddings + self.num_hidden_layers * layer + self.hidden_size

    def weights(self, itemsize: int) -> list[Weight]:
        """Every stored tensor, in the order `named_parameters` gives."""
        d, f = self.hidden_size, self.intermediate_size
        embed = Weight("model.embed_tokens.weight", Role.EMBED, (self.vocab_size, d), 1, itemsize)
        layers = [w for i in range(self.num_hidden_layers) for w in self._layer(f"model.layers.{i}", d, f, itemsize)]
        norm = Weight("model.norm.weight", Role.NORM, (d,), 1, itemsize)
        head = Weight("lm_head.weight", Role.HEAD, (self.vocab_size, d), 1, itemsize)
        return [embed, *layers, norm] + ([] if self.tie_word_embeddings else [head])

    def _layer(self, prefix: str, d: int, f: int, itemsize: int) -> list[Weight]:
        q, kv = self.attention_size, self.kv_size
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return [
            Weight(f"{prefix}.input_layernorm.weight", Role.NORM, (d,), 1, itemsize),
            Weight(f"{prefix}.self_attn.q_proj.weight", Role.Q, (q, d), heads, itemsize),
            Weight(f"{prefix}.self_attn.k_proj.weight", Role.K, (kv, d), kv_heads, itemsize),
            Weight(f"{prefix}.self_attn.v_proj.weight", Role.V, (kv, d), kv_heads, itemsize),
            Weight(f"{prefix}.self_attn.o_proj.weight", Role.O, (d, q), 1, itemsize),
            Weight(f"{prefix}.post_attention_layernorm.weight", Role.NORM, (d,), 1, itemsize),
            Weight(f"{prefix}.mlp.gate_proj.weight", Role.GATE, (f, d), 1, itemsize),
            Weight(f"{prefix}.mlp.up_proj.weight", Role.UP, (f, d), 1, itemsize),
            Weight(f"{prefix}.mlp.down_proj.weight", Role.DOWN, (d, f), 1, itemsize),
        ]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def _shape(h: int, i: int, heads: int, layers: int, *, kv: int | None = None, vocab: int = 32_000,
           tied: bool = False, eps: float = 1e-6, theta: float = 10_000.0) -> LlamaShape:  # fmt: skip
    return LlamaShape(
        hidden_size=h,
        intermediate_size=i,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv or heads,
        head_dim=h // heads,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        rms_norm_eps=eps,
        rope_theta=theta,
    )


SHAPES: dict[str, LlamaShape] = {
    "9m": _shape(128, 352, 4, 4),
    "20m": _shape(256, 688, 4, 4),
    "35m": _shape(384, 1024, 8, 6),
    "60m": _shape(512, 1376, 8, 8),
    "71m": _shape(512, 1368, 8, 12),
    "100m": _shape(640, 1708, 10, 12),
    "130m": _shape(768, 2048, 12, 12),
    "250m": _shape(768, 2560, 16, 24),
    "350m": _shape(1024, 2736, 16, 24),
    "1b": _shape(2048, 5461, 32, 24),
    "3b": _shape(2560, 6848, 32, 32),
    "7b": _shape(4096, 11008, 32, 32),
    "13b": _shape(5120, 13824, 40, 40),
    "llama2-7b": _shape(4096, 11008, 32, 32, eps=1e-5),
    "llama2-13b": _shape(5120, 13824, 40, 40, eps=1e-5),
    "llama2-70b": _shape(8192, 28672, 64, 80, kv=8, eps=1e-5),
    "llama3-8b": _shape(4096, 14336, 32, 32, kv=8, vocab=128_256, eps=1e-5, theta=500_000.0),
    "llama3-70b": _shape(8192, 28672, 64, 80, kv=8, vocab=128_256, eps=1e-5, theta=500_000.0),
    "llama3.1-405b": _shape(16384, 53248, 128, 126, kv=8, vocab=128_256, eps=1e-5, theta=500_000.0),
    "llama3.2-1b": _shape(2048, 8192, 32, 16, kv=8, vocab=128_256, tied=True, eps=1e-5, theta=500_000.0),
    "llama3.2-3b": _shape(3072, 8192, 24, 28, kv=8, vocab=128_256, tied=True, eps=1e-5, theta=500_000.0),
}


def get_shape(name: str, **overrides: object) -> LlamaShape:
    """A named shape, with fields overridden (`num_layers` is short for `num_hidden_layers`)."""
    if name not in SHAPES:
        names = ", ".join(SHAPES)
        raise MemprofError(f"unknown model {shown(repr(name))}; choose from {names}, or give a path to a config.json")
    return override(SHAPES[name], **overrides)


def override(shape: LlamaShape, **overrides: object) -> LlamaShape:
    """`shape` with fields replaced; a None leaves its field alone, an unknown field is an error."""
    given = {"num_hidden_layers" if k == "num_layers" else k: v for k, v in overrides.items() if v is not None}
    known = [spec.name for spec in fields(LlamaShape)]
    for name in given:
        if name not in known:
            raise MemprofError(f"unknown shape field {name!r}; choose from num_layers, {', '.join(known)}")
    return replace(shape, **given)  # type: ignore[arg-type]
