"""What documents quote of the published results, written from these."""
