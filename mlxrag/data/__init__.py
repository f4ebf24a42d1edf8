"""Questions with answers: make them from documents, clean, split and version them."""
