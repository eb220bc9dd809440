"""A whole experiment: its config, its methods and people, how far it is and where it comes from."""
