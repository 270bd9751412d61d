"""Training.  trainer.py is the training step, run.py the loop with its files; recipe.py holds all hyperparameters,
objective.py and update.py the mathematics; data/ and augmentation/ make the batches."""
