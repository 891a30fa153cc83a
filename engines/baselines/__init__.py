"""The classic decoders that every other method is judged against."""
