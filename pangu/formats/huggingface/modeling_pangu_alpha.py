"""PanGu-alpha in PyTorch, for transformers: a GPT whose last layer takes its query from a table of its own.

    AutoModelForCausalLM.from_pretrained(DIRECTORY, trust_remote_code=True)

The layer before the logits, the query layer, asks at each position with that position's row of `wqe`, not with the
hidden state (Zeng et al. 2021, section 2.2). There is no cache: every new token reads the whole text again.
"""

import math

import torch
import torch.nn.functional as functional
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


def fast_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {
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


class Attention(nn.Module):
    """Causal attention. query: what asks, the hidden state or the rows of the query table."""

    def __init__(self, config: PanguAlphaConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.heads = config.n_head
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

        queries, keys, values = split(self.q_proj(query)), split(self.k_proj(hidden)), split(self.v_proj(hidden))
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

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, query: torch.Tensor | None = None) -> torch.Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed if query is None else query, normed, mask)
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

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        length = ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()[None, None]
        positions = torch.arange(length, device=ids.device)[None]
        if attention_mask is not None:
            visible = attention_mask[:, :length].bool()
            mask = mask & (visible[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=ids.device))
            positions = (visible.long().cumsum(-1) - 1).clamp(min=0)
        hidden = self.wte(ids) + self.wpe(positions)
        for layer in self.h[:-1]:
            hidden = layer(hidden, mask)
        if self.norm_before_query:
            return self.h[-1](self.ln_f(hidden), mask, self.wqe(positions).expand_as(hidden))
        return self.ln_f(self.h[-1](hidden, mask, self.wqe(positions).expand_as(hidden)))


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
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: object,
    ) -> CausalLMOutput:
        logits = self.lm_head(self.transformer(input_ids, attention_mask))
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
