"""How the bundled people were rendered, and how the bundled model was trained on others."""
