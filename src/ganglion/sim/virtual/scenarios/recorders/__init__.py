"""The flow of the scenario `backlogs`: recorders that tell more than an island may keep, each as declared."""
