"""The way out: trained models, encrypted and signed, to those who use them."""
