"""The miniature's CLIP: a small ViT and a small text transformer, trained against each other."""

from __future__ import annotations

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

LAYERS = 3
HEADS = 4
SIDE = 128  # px
PIXEL_MEAN = PIXEL_STD = 0.5


def build_clip(
    tokenizer: CLIPTokenizer, width: int, layers: int = LAYERS, patch: int = 16
) -> CLIPModel:
    """An untrained CLIPModel for a tokenizer's vocabulary and portraits of 128 px.

    width, layers: of both towers. patch: side of the image tower's patches [px].
    """
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=patch,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width)
    )


def clip_loss(clip: CLIPModel, tokens: Tensor, pixels: Tensor) -> Tensor:
    """Symmetric contrastive loss (Radford et al. 2021, section 2.3) of captions and portraits.

    tokens: (n, length). pixels: (n, 3, h, w) in [0, 1].
    """
    scaled = (pixels - PIXEL_MEAN) / PIXEL_STD
    return clip(input_ids=tokens, pixel_values=scaled, return_loss=True).loss.float()
