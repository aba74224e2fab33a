"""Masks as files, one bit a weight, and how they are applied to the pretrained model that they were made on."""
