"""The method: an episode, training, exemplars, figures, and the learner state."""
