"""The dimensions at which parity is shown: real proportions scaled down, and odd ones."""

from __future__ import annotations

from tests.parity.recipes import Shape

# name, mels, audio ctx, d_model, audio heads and layers, text heads and layers, vocabulary
OPENAI = (
    Shape("tiny-like", 80, 1500, 96, 6, 4, 6, 4, 51865, rows=2),
    Shape("tiny.en-like", 80, 400, 64, 4, 4, 4, 4, 51864),
    Shape("base-like", 80, 300, 128, 8, 6, 8, 6, 4000),
    Shape("large-v3-like", 128, 1500, 80, 5, 5, 5, 5, 51866, rows=2),
    Shape("turbo-like", 128, 500, 100, 5, 8, 5, 2, 3000),
    Shape("odd-heads", 80, 150, 84, 7, 2, 3, 3, 1999),
    Shape("deep-decoder", 80, 200, 48, 3, 1, 4, 7, 2100),
    Shape("one-head", 128, 64, 40, 1, 3, 1, 1, 2500, rows=5),
)

HF = (
    Shape("tiny", 80, 1500, 96, 6, 4, 6, 4, 51865, rows=2),
    Shape("tiny.en", 80, 500, 64, 4, 4, 4, 4, 51864),
    Shape("base", 80, 750, 128, 8, 6, 8, 6, 51865, rows=2),
    Shape("small", 80, 300, 96, 12, 5, 12, 5, 2400),
    Shape("large-v3", 128, 1500, 80, 5, 6, 5, 6, 51866, rows=2),
    Shape("large-v3-turbo", 128, 600, 120, 5, 8, 5, 2, 3000),
    Shape("distil", 128, 400, 64, 4, 6, 4, 1, 2200),
    Shape("uneven-depth", 80, 250, 72, 3, 1, 6, 5, 2300),
    Shape("odd-heads", 80, 200, 70, 7, 3, 5, 2, 1777, 200, 333),
    Shape("narrow-ffn", 80, 120, 64, 2, 2, 4, 3, 2048, 40, 24),
    Shape("wide-ffn", 128, 100, 36, 3, 2, 9, 2, 1900, 500, 301),
    Shape("one-head", 80, 333, 50, 1, 2, 1, 2, 2222, rows=4),
    Shape("short-text", 80, 180, 64, 4, 2, 4, 2, 2000, n_text_ctx=210),
    Shape("many-rows", 80, 90, 48, 4, 2, 4, 2, 2500, rows=7),
)
