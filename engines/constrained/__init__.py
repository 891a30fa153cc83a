"""Methods that hold a text to a language, or whose subject is what that does to the model."""
