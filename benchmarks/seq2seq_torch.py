"""The recurrent encoder-decoder with attention in PyTorch, as one writes it down."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class EncoderDecoder(nn.Module):
    """A bidirectional LSTM, and an LSTM that attends to it (Bahdanau's score, Luong's step with input feeding)."""

    def __init__(self, vocabulary: int, width: int, dropout: float, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(4 * width, 2 * width)
        self.decoder = nn.LSTMCell(2 * width, width)
        self.key = nn.Linear(2 * width, width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)
        self.readout = nn.Linear(3 * width, width)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary))
        self.drop = nn.Dropout(dropout)

    def forward(self, source: Any, lengths: Any, tokens: Any) -> Any:
        """Gives the logits of what follows each token."""
        states, hidden, cell = self.encode(source, lengths)
        padded = torch.arange(source.shape[1]) >= lengths[:, None]
        keys, vector, vectors = self.key(states), torch.zeros_like(hidden), []
        for read in self.embedded(tokens).unbind(dim=1):
            hidden, cell = self.decoder(torch.cat([read, vector], dim=-1), (hidden, cell))
            scores = self.energy(torch.tanh(keys + self.query(hidden)[:, None])).squeeze(-1)
            weights = scores.masked_fill(padded, float("-inf")).softmax(dim=-1)
            context = torch.bmm(weights[:, None], states).squeeze(1)
            vector = self.drop(torch.tanh(self.readout(torch.cat([hidden, context], dim=-1))))
            vectors.append(vector)
        return functional.linear(torch.stack(vectors, dim=1), self.embedding.weight, self.output_bias)

    def encode(self, source: Any, lengths: Any) -> tuple[Any, Any, Any]:
        """Gives the encoder's states, and what the decoder's hidden and cell state begin with."""
        packed = pack_padded_sequence(self.embedded(source), lengths, batch_first=True, enforce_sorted=False)
        states, (hidden, cell) = self.encoder(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        ends = torch.cat([hidden[0], cell[0], hidden[1], cell[1]], dim=-1)
        begin, cell = self.bridge(ends).chunk(2, dim=-1)
        return states, torch.tanh(begin), cell.contiguous()

    def embedded(self, tokens: Any) -> Any:
        """Embeds tokens, scaled up."""
        return self.drop(self.embedding(tokens) * self.embedding.embedding_dim**0.5)
