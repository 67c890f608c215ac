"""How anything is measured: cases and arms, workers, raw records, targets, placement."""
