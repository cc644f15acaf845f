"""Recovery: what is a fault, what to do about it, when to stop. Pure; adapters carry instructions out."""
