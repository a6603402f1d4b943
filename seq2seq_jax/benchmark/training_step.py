"""Training steps of this project as something to be timed, and as something to be checked."""

import jax
from jaxtyping import Array, Float

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Params
from seq2seq_jax.optimizers import OptimizerConfig
from seq2seq_jax.parallel.mesh import JittedOnMesh, MeshConfig, batch_sharding
from seq2seq_jax.training.step import TrainState, Update, build_update, initial_state, player_optimizers


class TrainingStep:
    """Updates one after the other, each waited for.

    Attributes:
        state: after the last update.
    """

    def __init__(self, update: Update, state: TrainState):
        self._update = update
        self.state = state

    def __call__(self, batch: Batch) -> float:
        """Update once; returns the loss before the update."""
        self.state, metrics = jax.block_until_ready(self._update(self.state, batch))
        return float(metrics["loss"].mean)


class MaximumLikelihoodTraining:
    """The training step of a model from its configs alone, as `seq2seq train` would run it."""

    def __init__(
        self,
        model: ModelConfig,
        *,
        vocabulary: Vocabulary,
        objective: MaximumLikelihoodConfig,
        optimizer: OptimizerConfig,
        seed: int,
    ):
        self._mesh = MeshConfig().build()
        self._model = model.build(vocabulary)
        self._objective = objective.build(self._model)
        self._optimizer = optimizer
        self._seed = seed

    def place(self, batch: Batch) -> Batch:
        """A batch on the devices."""
        return jax.device_put(batch, batch_sharding(self._mesh))

    def step(self) -> TrainingStep:
        """A training step with a state of its own, the parameters drawn with the seed."""
        optimizers, average_decays = player_optimizers(self._objective, self._optimizer, steps=1)
        build, layout = initial_state(
            self._objective,
            optimizers,
            average_decays=average_decays,
            seed=self._seed,
            mesh=self._mesh,
        )
        update = build_update(
            self._objective,
            optimizers,
            accumulation=1,
            average_decays=average_decays,
            seed=self._seed,
            mesh=self._mesh,
            layout=layout,
        )
        return TrainingStep(update, build())

    def loss_and_gradient(self, params: Params, batch: Batch) -> tuple[Float[Array, ""], Params]:
        """Mean loss of a batch (nats per target token) without dropout, and its gradient."""

        def loss(params: Params, batch: Batch) -> Float[Array, ""]:
            return self._objective.evaluate({self._objective.players[0].name: params}, batch)[0].mean

        return JittedOnMesh(jax.value_and_grad(loss), self._mesh)(params, batch)
