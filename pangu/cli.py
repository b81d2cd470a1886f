"""The verbs of `pangu`."""

from collections.abc import Sequence

from pangu.foundation import command_line

# verb -> its line of help; the code is pangu/commands/VERB.py
VERBS = {
    "sizes": "the table of model sizes: parameters, FLOPs per token, memory",
    "logits": "logits of a model for given token ids, to compare implementations",
    "tokenize": "text lines to lists of token ids",
    "detokenize": "lists of token ids to text lines",
    "init": "write a commented configuration with every default",
    "train": "pretrain, resume, or continue from a checkpoint",
    "report": "a run's page: losses, samples, configuration, cost, as one HTML file",
    "launch": "train on several processes: checks, starts, watches and restarts them",
    "reshard": "change the layout of a checkpoint that ranks wrote in parts",
    "compile": "compile one rank's training step under a strategy, and run nothing",
    "generate": "continue a prompt",
    "finetune": "adapt a model to instructions or texts of your own",
    "merge": "put an adapter into its base",
    "score": "log-likelihoods of texts",
    "evaluate": "the tasks of the paper, zero-, one- and few-shot",
    "serve": "OpenAI's protocol over HTTP, and a page to play with",
    "predict": "continue the prompts of a file on several processes",
    "convert": "released shards, MindSpore, safetensors and PyTorch names into one another",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 a mistake of the user, 130 interrupted."""
    return command_line.main("pangu", VERBS, argv)
