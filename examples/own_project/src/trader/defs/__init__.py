"""The project's assets, and its lakes."""
