"""Training: trainer.py is the step, run.py what surrounds it on the disk; recipe.py has all its numbers, objective.py
and update.py its mathematics, data/ and augmentation/ its batches."""
