"""The training run: a mixture of domains that is steered while the model trains.

`RunConfig` says what is run. `Order` is the sequence of rows, a function of the shards, the seed
and the `WeightLog`. `Engine` holds the sharded model. `measure_alignment` compares gradients of
`ProbeRows` on the slices that the ranks hold; `propose` turns an `Alignment` into new
`MixtureWeights`, and the weight log makes them an appointment. `train` is the loop over all of it.
"""
