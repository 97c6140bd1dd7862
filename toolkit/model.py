"""The model: a Llama-style decoder from transformers, as one function from tokens to a loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit.config import ModelSection


class NextTokenLoss(nn.Module):
    """Mean cross-entropy of each row's next tokens, in nats, computed in fp32.

    Shapes: B rows, T tokens per row, V vocabulary.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV = self.decoder(input_ids=tokens_BT, use_cache=False).logits
        return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), tokens_BT[:, 1:].flatten())


def build_model(section: ModelSection, *, vocab_size: int, row_length: int, seed: int) -> nn.Module:
    """A freshly initialised model; the same seed gives the same parameters on every rank."""
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = dict(
        vocab_size=vocab_size,
        hidden_size=section.hidden_size,
        intermediate_size=section.feed_forward_size,
        num_hidden_layers=section.num_layers,
        num_attention_heads=section.num_heads,
        num_key_value_heads=section.num_key_value_heads or section.num_heads,
        max_position_embeddings=row_length,
        tie_word_embeddings=section.tie_embeddings,
        attention_dropout=section.attention_dropout,
        # The tokenizer has one special token, the document boundary.
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NextTokenLoss(LlamaForCausalLM(LlamaConfig(**options)))
