"""PanGu-alpha in PyTorch, for transformers: a GPT whose last layer takes its query from a table of its own.

    AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)

The layer before the logits, the query layer, asks at each position with that position's row of `wqe`, not with the
hidden state (Zeng et al. 2021, section 2.2). There is no cache: every new token reads the whole text again.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


def fast_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_erf": functional.gelu,
    "fast_gelu": fast_gelu,
}


class PanguAlphaConfig(PretrainedConfig):
    """The network, with the names of fields that transformers knows of GPT-2."""

    model_type = "pangu_alpha"

    def __init__(
        self,
        vocab_size: int = 40000,
        n_positions: int = 1024,
        n_embd: int = 2560,
        n_layer: int = 32,
        n_head: int = 32,
        n_inner: int = 10240,
        activation: str = "gelu_tanh",
        final_norm: str = "before_query",
        **others: object,
    ) -> None:
        self.vocab_size, self.n_positions, self.n_embd = vocab_size, n_positions, n_embd
        self.n_layer, self.n_head, self.n_inner = n_layer, n_head, n_inner
        self.activation, self.final_norm = activation, final_norm
        self.hidden_size, self.num_hidden_layers, self.num_attention_heads = n_embd, n_layer, n_head
        others.setdefault("tie_word_embeddings", True)
        super().__init__(**others)


# Keys and values of a layer, or None.
Past = tuple[torch.Tensor, torch.Tensor] | None


def kept_of(cache: Any, layers: int) -> list[Past]:
    """Return what a cache of transformers holds of each layer."""
    if cache is None or not cache.get_seq_length():
        return [None] * layers
    return [(layer.keys, layer.values) for layer in cache.layers]


class Attention(nn.Module):
    """Causal attention. query: what asks, the hidden state or the rows of the query table. past: keys and values
    [B, H, n, d/H] that every token sees, or None."""

    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.heads = config.n_head
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor, past: Past) -> torch.Tensor:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

        queries, keys, values = split(self.q_proj(query)), split(self.k_proj(hidden)), split(self.v_proj(hidden))
        if past is not None:
            keys, values = torch.cat((past[0], keys), 2), torch.cat((past[1], values), 2)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        probabilities = torch.softmax(scores.float().masked_fill(~mask, torch.finfo(torch.float32).min), -1)
        context = (probabilities.to(values.dtype) @ values).transpose(1, 2).reshape(hidden.shape)
        return self.c_proj(context)


class FeedForward(nn.Module):
    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(config.n_embd, config.n_inner), nn.Linear(config.n_inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.activation(self.c_fc(hidden)))


class Layer(nn.Module):
    """A pre-norm layer; the last one of the network asks with `query`."""

    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn, self.mlp = Attention(config), FeedForward(config)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, past: Past, query: torch.Tensor | None = None
    ) -> torch.Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed if query is None else query, normed, mask, past)
        return hidden + self.mlp(self.ln_2(hidden))


class Backbone(nn.Module):
    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.wqe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.norm_before_query = config.final_norm == "before_query"

    def forward(self, words: torch.Tensor, attention_mask: torch.Tensor | None, past: list[Past]) -> torch.Tensor:
        """Return hidden states [B, S, d] of word embeddings [B, S, d], which stand behind n kept tokens."""
        length, device = words.shape[1], words.device
        kept = 0 if past[0] is None else past[0][0].shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
        positions = kept + torch.arange(length, device=device)[None]
        if attention_mask is not None:
            visible = attention_mask[:, kept : kept + length].bool()
            mask = mask & (visible[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=device))
            positions = kept + (visible.long().cumsum(-1) - 1).clamp(min=0)
        mask = functional.pad(mask, (kept, 0), value=True)
        hidden = words + self.wpe(positions)
        for layer, one in zip(self.h[:-1], past[:-1], strict=True):
            hidden = layer(hidden, mask, one)
        query = self.wqe(positions).expand_as(hidden)
        if self.norm_before_query:
            return self.h[-1](self.ln_f(hidden), mask, past[-1], query)
        return self.ln_f(self.h[-1](hidden, mask, past[-1], query))


class PanguAlphaForCausalLM(PreTrainedModel, GenerationMixin):
    """ids [B, S] -> logits [B, S, V]; the output matrix is the word table."""

    config_class = PanguAlphaConfig
    base_model_prefix = "transformer"
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012

    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__(config)
        self.transformer = Backbone(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: object
    ) -> dict:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values: object = None,
        **_: object,
    ) -> CausalLMOutput:
        """Return logits. inputs_embeds: instead of ids. past_key_values: a prefix of PEFT's, left as it is."""
        words = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        logits = self.lm_head(self.transformer(words, attention_mask, kept_of(past_key_values, self.config.n_layer)))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
