"""Random strategy files: search from each, and check what every winner promises; prove the small ones.

python -m tests.benchmarks.random_files --files 200 --seed 1 --prove 20
"""

import argparse
import random
import time

from pangu.foundation.errors import UserError
from parallel_strategy.predict import Prediction
from parallel_strategy.search.executable import keep_to_framework
from parallel_strategy.search.find import search
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.strategy import Setup
from parallel_strategy.virtual.downsizing import reduced
from parallel_strategy.virtual.proof import prove
from tests.parallel_strategy.promises import broken_promises
from tests.parallel_strategy.random_files import some_file

SMALL = 8  # devices of a strategy that is proved


def proved(asked: Setup) -> str:
    """Return `equal`, what differs, or why the winner is not proved."""
    mesh = asked.strategy.mesh
    batch = asked.strategy.batch
    space = Space(mesh.devices, batch.global_, tp=[mesh.tp], pp=[mesh.pp], micro=[batch.micro])
    try:
        found = search(asked, keep_to_framework(asked, space))
        if not found.best:
            return "nothing fits"
        small = reduced(found.best[0].setup, SMALL)
        proof = prove(small.setup, "float64", 1, 1)
    except UserError as error:
        return f"not proved: {str(error).partition(';')[0]}"
    return "equal" if proof.equal else f"NOT equal: {proof.problem or proof.largest}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prove", type=int, default=0, help="prove the winners of so many files of few devices")
    arguments = parser.parse_args()
    choose, broken, refused = random.Random(arguments.seed), 0, 0
    proofs, begun = dict[str, int](), time.process_time()
    for number in range(arguments.files):
        asked = some_file(choose)
        try:
            lines = broken_promises(asked)
        except UserError as error:  # the framework has not this model
            refused += 1
            lines = [] if "execute" in str(error) else [f"refused: {error}"]
        for line in lines:
            mesh = asked.strategy.mesh
            where = f"{asked.model.name} {asked.framework.name} {mesh.pp}x{mesh.dp}x{mesh.tp}"
            print(f"{number}: {where}: {line}", flush=True)
        broken += bool(lines)
        is_small = asked.strategy.mesh.devices <= SMALL and not Prediction(asked).out_of_memory
        if is_small and sum(proofs.values()) < arguments.prove:
            said = proved(asked)
            proofs[said] = proofs.get(said, 0) + 1
    seconds = time.process_time() - begun
    print(f"{arguments.files} files, {refused} of models that the framework has not, {broken} with a broken promise")
    print(f"{seconds:.0f} s of processor; proofs: {proofs}")


if __name__ == "__main__":
    main()
