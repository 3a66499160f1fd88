"""Select a corpus in a notebook's few lines, without Dagster: sketch, predict, optimise, and retrain to see.

.venv/bin/python examples/select_corpus.py
"""

import numpy as np
import polars as pl

import grasp_pipeline as gp

N, LENGTH = 800, 64
corpus = pl.read_parquet("data/corpus/*.parquet").sample(N, seed=0, shuffle=True)["text"].to_list()
tasks = pl.read_parquet("data/tasks/*.parquet").filter(task=pl.lit("french"))["text"].to_list()
encoder = gp.train_bpe(corpus, 512)
chunks = [ids[:LENGTH] for ids, _ in encoder.encode(corpus + tasks)]
n_tokens = np.array([len(chunk) for chunk in chunks])

settings = gp.ProxyConfig(preset="tiny", batch_sequences=4, learning_rate=0.005)
proxy = gp.CausalLM(gp.build_model(settings, encoder.vocab_size, LENGTH))
sketcher = gp.build_sketcher("output", proxy, gp.SketchConfig())
sketches, losses = gp.sketch_chunks(sketcher, chunks, [str(i) for i in range(len(chunks))], encoder.bos, 8192)

query = slice(N, N + len(tasks) // 2)  # half of the task's documents say what is wanted, the others judge
target = np.average(sketches[query], axis=0, weights=n_tokens[query])
selected = gp.optimise(sketches[:N], n_tokens[:N], target, budget=int(n_tokens[:N].sum()) // 4)
drawn = np.random.default_rng(0).random(N) < 0.25
subsets = np.stack([selected.membership, drawn])
predicted = gp.Surrogate(sketches[:N], n_tokens[:N], target).predict(subsets)[:, 0]

jobs = [gp.Job(name, np.flatnonzero(s), 0) for name, s in zip(("selected", "random"), subsets, strict=True)]
stream = gp.TextStream(gp.TokenLists.of(chunks[:N]), encoder.bos)
held_out = gp.pad_chunks(chunks[query.stop :], encoder.bos, LENGTH)
recipe = gp.Recipe.from_config(settings, LENGTH, tokens=40_000)
for value, done in zip(
    predicted, gp.retrain(proxy, proxy.parameters(), stream, jobs, recipe, held_out, 2), strict=True
):
    loss = done.chunk_losses.sum() / n_tokens[query.stop :].sum()
    print(f"{done.subset_id}: predicted {value:.4f}, loss of the other half {loss:.3f} nats per token")
