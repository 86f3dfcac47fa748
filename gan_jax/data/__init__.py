"""What a step is fed with: mixtures sampled inside it, images kept on the device."""
