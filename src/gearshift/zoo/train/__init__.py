"""How the models were trained: `python -m gearshift.zoo.train.NAME`, first judge, then vae, text_to_image, dit."""
