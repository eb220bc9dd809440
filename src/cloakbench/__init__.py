"""CloakBench: do protective perturbations hold against purification and contrastive fine-tuning?"""

__version__ = "0.1.0"
