"""A trial of one person's photos: two methods protect them, and a model learns both."""
