"""Word vectors that the reader inherits.

Each token of its vocabulary is looked up, lower-cased, in all-MiniLM-L6-v2 (Apache-2.0), so that "price" is near
"cost" before the first step of training.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional

from .tokenizer import SPECIALS


def _sentence_vectors(words: list[str], directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode `words` with MiniLM: mean of the input embeddings and of the output states, `(n, 384)` each."""
    from transformers import AutoModel

    pieces = Tokenizer.from_file(str(directory / "tokenizer.json"))
    pieces.no_truncation()
    pieces.enable_padding(pad_id=0)
    encoder = AutoModel.from_pretrained(directory).eval()
    inputs, outputs = [], []
    with torch.no_grad():
        for i in range(0, len(words), 256):
            batch = pieces.encode_batch(words[i : i + 256])
            ids = torch.tensor([b.ids for b in batch])
            mask = torch.tensor([b.attention_mask for b in batch])
            states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            inside = (mask * (ids != 101) * (ids != 102))[..., None].float()
            count = inside.sum(1).clamp(min=1)
            inputs.append((encoder.embeddings.word_embeddings(ids) * inside).sum(1) / count)
            outputs.append((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(inputs), torch.cat(outputs)


def inherit(tokenizer: Tokenizer, directory: Path, width: int, seed: int, scale: float = 0.04) -> NDArray[np.float32]:
    """Embeddings for the vocabulary from MiniLM, reduced by PCA.

    A token's meaning is the joint of MiniLM's input embedding (what the word is) and its output for the word alone
    (what the word means). Two fixed random directions mark a leading space and a capital, so that "cost", " cost"
    and " Cost" are near, and told apart by a linear map.

    Args:
        tokenizer: the reader's.
        directory: a checkpoint of all-MiniLM-L6-v2 in Hugging Face layout.
        width: of the reader; at most 768.
        seed: of the marks and of the rows without a word.
        scale: root mean square of the entries.

    Returns:
        `(vocabulary, width)`.
    """
    size = tokenizer.get_vocab_size()
    texts = [tokenizer.decode([i], skip_special_tokens=False) for i in range(size)]
    words = [t.strip().lower() for t in texts]
    known = [i for i, w in enumerate(words) if w and i >= len(SPECIALS) and "\ufffd" not in w]
    inputs, outputs = _sentence_vectors([words[i] for i in known], directory)
    near, alike = (functional.normalize(x - x.mean(0), dim=-1) for x in (inputs, outputs))
    joint = torch.cat([near * 0.7, alike], -1)
    joint = joint - joint.mean(0)
    _, _, basis = torch.linalg.svd(joint, full_matrices=False)
    reduced = functional.normalize(joint @ basis[:width].T, dim=-1)

    generator = torch.Generator().manual_seed(seed)
    table = functional.normalize(torch.randn(size, width, generator=generator), dim=-1)
    table[known] = reduced + 0.15 * table[known]
    marks = functional.normalize(torch.randn(2, width, generator=generator), dim=-1)
    space = torch.tensor([t.startswith(" ") for t in texts])[:, None]
    capital = torch.tensor([t.strip()[:1].isupper() for t in texts])[:, None]
    table = table + 0.35 * space * marks[0] + 0.35 * capital * marks[1]
    table = table / table.pow(2).mean().sqrt() * scale
    result: NDArray[np.float32] = table.numpy().astype(np.float32)
    return result
