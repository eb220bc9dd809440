"""Files: photos, weights and results; where they lie, and how they are written whole or not."""
