"""The network of the sample model: a Llama decoder in plain torch, with Hugging Face's names.

RMSNorm, rotary positions over the two halves of a head, grouped key and value heads, SwiGLU, tied
embeddings. The state dict can be written to model.safetensors as it is. Called by the training
script; check_model.py shows that transformers' own Llama computes the same from the file.
"""

import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 768,
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": 0,
    "torch_dtype": "float16",
    "use_cache": True,
}
HEADS, KV_HEADS = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
HEAD_DIM, HIDDEN = CONFIG["head_dim"], CONFIG["hidden_size"]


class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        x = x.float()
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
        return x * scale * self.weight


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """Rotary embedding of x [tokens, heads, HEAD_DIM]: pair i is (x[i], x[i + HEAD_DIM / 2])."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = linear(HIDDEN, HEADS * HEAD_DIM)
        self.k_proj = linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.v_proj = linear(HIDDEN, KV_HEADS * HEAD_DIM)
        self.o_proj = linear(HEADS * HEAD_DIM, HIDDEN)

    def forward(self, x, cos, sin, shapes):
        q = rotate(self.q_proj(x).view(-1, HEADS, HEAD_DIM), cos, sin)
        k = rotate(self.k_proj(x).view(-1, KV_HEADS, HEAD_DIM), cos, sin)
        v = self.v_proj(x).view(-1, KV_HEADS, HEAD_DIM)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, dim=1) for t in (k, v))
        outputs, start = [], 0
        for rows, width in shapes:
            end = start + rows * width
            parts = (t[start:end].view(rows, width, HEADS, HEAD_DIM).transpose(1, 2)
                     for t in (q, k, v))
            out = F.scaled_dot_product_attention(*parts, is_causal=True)
            outputs.append(out.transpose(1, 2).reshape(end - start, HEADS * HEAD_DIM))
            start = end
        return self.o_proj(torch.cat(outputs))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = linear(HIDDEN, CONFIG["intermediate_size"])
        self.up_proj = linear(HIDDEN, CONFIG["intermediate_size"])
        self.down_proj = linear(CONFIG["intermediate_size"], HIDDEN)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(), RmsNorm()
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x, cos, sin, shapes):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, shapes)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = RmsNorm()


class Decoder(nn.Module):
    """Causal decoder over groups of rows; groups differ in width and share all matrix products."""

    def __init__(self):
        super().__init__()
        self.model = Stack()
        half = torch.arange(0, HEAD_DIM, 2) / HEAD_DIM
        angles = torch.outer(torch.arange(CONFIG["max_position_embeddings"]).float(),
                             CONFIG["rope_theta"] ** -half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = 2 * CONFIG["num_hidden_layers"] if deep else 1
                nn.init.normal_(parameter, std=0.04 / depth ** 0.5)

    def forward(self, groups):
        """Logits [all tokens, vocabulary] for groups of ids [rows, width], laid end to end."""
        shapes = [tuple(ids.shape) for ids in groups]
        cos, sin = (
            torch.cat([t[:width].repeat(rows, 1) for rows, width in shapes])[:, None]
            for t in (self.cos, self.sin)
        )
        x = self.model.embed_tokens(torch.cat([ids.reshape(-1) for ids in groups]))
        for layer in self.model.layers:
            x = layer(x, cos, sin, shapes)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def loss(self, groups, weights):
        """Mean cross entropy of the next token, weighted by the weight of that next token."""
        logits = self(groups).float()
        targets = torch.cat([F.pad(ids[:, 1:], (0, 1)).reshape(-1) for ids in groups])
        share = torch.cat([F.pad(w[:, 1:], (0, 1)).reshape(-1) for w in weights])
        each = F.cross_entropy(logits, targets, reduction="none")
        return (each * share).sum() / share.sum()
