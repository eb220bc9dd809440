"""Networks: diffusion models behind one protocol, their training and sampling, and judges."""
