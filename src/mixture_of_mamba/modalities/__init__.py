"""What a modality is: files, tokenizers, and how its items stand in a document."""
