"""From files to answers: read, chunk, index, retrieve, answer."""
