"""How fast a saved model is on this machine, in each of its forms and in other runtimes: measured, and never promised."""
