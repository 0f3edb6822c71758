"""Fine-tuning with the Trainer, and the retraining engine: a deterministic loop, data order, outputs."""
