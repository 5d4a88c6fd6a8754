"""Vectors in two dimensions: principal components, t-SNE, a picture of them, and files for TensorBoard's projector."""

from collections.abc import Sequence

import numpy as np

from keras_tfm.arguments import as_integer, require
from keras_tfm.files import local_path, replace_file
from keras_tfm.optional import required
from keras_tfm.types import PathLike, Tensor
from keras_tfm.visualization.figures import labels_of, new_figure, save


def principal_components(vectors: Tensor, num_components: int = 2) -> np.ndarray:
    """The vectors along the directions in which they differ most (PCA).

    Args:
        vectors: float (n, D).
        num_components: int, at most n and D.

    Returns:
        float32 (n, num_components), centered. Of each column the greatest number is positive, so that the picture is
        the same on each machine.

    Example:
        >>> abs(principal_components(np.array([[0.0, 0.0], [3.0, 4.0]]), 1))
        [[2.5], [2.5]]
    """
    vectors = _matrix_of(vectors)
    num_components = as_integer("num_components", num_components, 1)
    require(
        num_components <= min(vectors.shape),
        "`num_components` must be at most the number and the width of the vectors",
        num_components=num_components,
        shape=vectors.shape,
    )
    centered = vectors.astype("float64") - vectors.mean(axis=0)
    directions = np.linalg.svd(centered, full_matrices=False)[2][:num_components]  # (components, D)
    points = centered @ directions.T
    greatest = np.take_along_axis(points, np.abs(points).argmax(axis=0)[None], axis=0)
    return (points * np.where(greatest < 0, -1, 1)).astype("float32")


def t_sne(vectors: Tensor, perplexity: float | None = None, seed: int = 0) -> np.ndarray:
    """The vectors in two dimensions, neighbours beside each other; distances between groups mean little.

    Args:
        vectors: float (n, D), n at least 3.
        perplexity: float, how many neighbours count, less than n. Default: 30, or a third of n if that is less.
        seed: int.

    Returns:
        float32 (n, 2).

    Raises:
        ImportError: without scikit-learn, which computes it.

    Reference:
        van der Maaten and Hinton 2008, "Visualizing Data using t-SNE", https://jmlr.org/papers/v9/vandermaaten08a.html
    """
    vectors = _matrix_of(vectors)
    require(len(vectors) >= 3, "`vectors` must be three at least", shape=vectors.shape)
    perplexity = min(30.0, len(vectors) / 3) if perplexity is None else perplexity
    require(
        0 < perplexity < len(vectors), "`perplexity` must be less than the number of vectors", perplexity=perplexity
    )
    manifold = required("sklearn.manifold", "visualization", "Pictures by t-SNE")
    return manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors).astype("float32")


def plot_embeddings(
    points: Tensor, labels: Sequence[str], path: PathLike, groups: Sequence[str] | None = None, title: str = ""
) -> None:
    """Draws labelled points, such as words.

    Args:
        points: float (n, 2), of `principal_components` or `t_sne`.
        labels: n str, written beside the points; an empty one is not.
        path: where to write; the ending chooses the format (.png, .svg, .pdf).
        groups: n str, a color for each. Default: one color.
        title: of the picture.

    Raises:
        ValueError: if the sizes do not fit. ImportError: without matplotlib.
    """
    points = _matrix_of(points, "points")
    require(points.shape[1] == 2, "`points` must have shape (n, 2)", shape=points.shape)
    labels = labels_of("labels", labels, len(points))
    colors = labels_of("groups", [""] * len(points) if groups is None else groups, len(points))
    figure = new_figure(8, 6)
    axes = figure.add_subplot()
    for group in dict.fromkeys(colors):
        axes.scatter(*points[np.array(colors) == group].T, s=18, alpha=0.8, label=group)
    for (x, y), label in zip(points, labels, strict=True):
        axes.annotate(label, (x, y), (3, 2), textcoords="offset points", fontsize=8, parse_math=False)
    axes.set(title=title)
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    if groups is not None:
        figure.legend(loc="outside right center", fontsize=9)
    save(figure, path)


def write_projector(folder: PathLike, vectors: Tensor, labels: Sequence[str]) -> None:
    """Writes vectors and labels as TensorBoard's projector reads them: `tensorboard --logdir FOLDER`, tab "Projector".

    The site projector.tensorflow.org loads the two .tsv files by themselves.

    Args:
        folder: where "vectors.tsv", "metadata.tsv" and "projector_config.pbtxt" go; made if it is not there.
        vectors: float (n, D).
        labels: n str.

    Raises:
        ValueError: if there are not as many labels as vectors.

    Example:
        >>> table = model.token_embedding.embedding.embeddings
        >>> write_projector("projector", table, [tokenizer.id_to_token(i) for i in range(len(table))])
    """
    vectors = _matrix_of(vectors)
    labels = labels_of("labels", labels, len(vectors))
    target = local_path(folder)
    rows = ("\t".join(f"{number:.6g}" for number in row) for row in vectors)
    replace_file(target / "vectors.tsv", "\n".join(rows) + "\n")
    replace_file(target / "metadata.tsv", "\n".join(label or " " for label in labels) + "\n")  # an empty line is none
    config = 'embeddings {\n  tensor_path: "vectors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'
    replace_file(target / "projector_config.pbtxt", config)


def _matrix_of(vectors, name: str = "vectors") -> np.ndarray:
    vectors = np.asarray(vectors, "float32")
    require(vectors.ndim == 2 and vectors.size, f"`{name}` must have shape (n, D)", shape=vectors.shape)
    return vectors
