//! Inception-v3 (Szegedy et al. 2016) as data, with the tensor names of torchvision and the pooling
//! of the network that FID uses.

/// A step of the network. `C` is a convolution, planned or loaded.
#[derive(Clone, Debug)]
pub(super) enum Step<C> {
    Convolution(C),
    Pool(Pool),
    /// Every branch gets the same input; the output channels are concatenated.
    Branches(Vec<Vec<Self>>),
}

use Step::{Branches, Pool as Pooled};

/// Pooling over windows of 3 × 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// The maximum with stride 2.
    Halve,
    /// The mean of the values inside the image.
    Mean,
    /// The maximum of the values inside the image.
    Max,
}

/// A convolution without bias, a normalisation and a ReLU.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The prefix of the tensor names, before `.conv` and `.bn`.
    pub(super) name: String,
    pub(super) outputs: usize,
    /// Height and width.
    pub(super) kernel: [usize; 2],
    pub(super) stride: usize,
    /// Whether zeros around the images keep their size.
    pub(super) padded: bool,
}

fn conv(name: impl Into<String>, outputs: usize, kernel: [usize; 2]) -> Step<Plan> {
    Step::Convolution(Plan { name: name.into(), outputs, kernel, stride: 1, padded: true })
}

/// A 3 × 3 convolution without padding.
fn inner(name: impl Into<String>, outputs: usize, stride: usize) -> Step<Plan> {
    Step::Convolution(Plan { name: name.into(), outputs, kernel: [3, 3], stride, padded: false })
}

/// The whole network, from (3, 299, 299) to (2048, 8, 8).
pub(super) fn network() -> Vec<Step<Plan>> {
    vec![
        inner("Conv2d_1a_3x3", 32, 2),
        inner("Conv2d_2a_3x3", 32, 1),
        conv("Conv2d_2b_3x3", 64, [3, 3]),
        Pooled(Pool::Halve),
        conv("Conv2d_3b_1x1", 80, [1, 1]),
        inner("Conv2d_4a_3x3", 192, 1),
        Pooled(Pool::Halve),
        block_a("Mixed_5b", 32),
        block_a("Mixed_5c", 64),
        block_a("Mixed_5d", 64),
        block_b("Mixed_6a"),
        block_c("Mixed_6b", 128),
        block_c("Mixed_6c", 160),
        block_c("Mixed_6d", 160),
        block_c("Mixed_6e", 192),
        block_d("Mixed_7a"),
        block_e("Mixed_7b", Pool::Mean),
        // The weights were trained with max pooling here, unlike the paper's network.
        block_e("Mixed_7c", Pool::Max),
    ]
}

fn block_a(block: &str, pooled: usize) -> Step<Plan> {
    let conv = |branch, outputs, kernel| conv(format!("{block}.{branch}"), outputs, kernel);
    Branches(vec![
        vec![conv("branch1x1", 64, [1, 1])],
        vec![conv("branch5x5_1", 48, [1, 1]), conv("branch5x5_2", 64, [5, 5])],
        vec![
            conv("branch3x3dbl_1", 64, [1, 1]),
            conv("branch3x3dbl_2", 96, [3, 3]),
            conv("branch3x3dbl_3", 96, [3, 3]),
        ],
        vec![Pooled(Pool::Mean), conv("branch_pool", pooled, [1, 1])],
    ])
}

fn block_b(block: &str) -> Step<Plan> {
    let conv = |branch, outputs, kernel| conv(format!("{block}.{branch}"), outputs, kernel);
    Branches(vec![
        vec![inner(format!("{block}.branch3x3"), 384, 2)],
        vec![
            conv("branch3x3dbl_1", 64, [1, 1]),
            conv("branch3x3dbl_2", 96, [3, 3]),
            inner(format!("{block}.branch3x3dbl_3"), 96, 2),
        ],
        vec![Pooled(Pool::Halve)],
    ])
}

fn block_c(block: &str, within: usize) -> Step<Plan> {
    let conv = |branch, outputs, kernel| conv(format!("{block}.{branch}"), outputs, kernel);
    Branches(vec![
        vec![conv("branch1x1", 192, [1, 1])],
        vec![
            conv("branch7x7_1", within, [1, 1]),
            conv("branch7x7_2", within, [1, 7]),
            conv("branch7x7_3", 192, [7, 1]),
        ],
        vec![
            conv("branch7x7dbl_1", within, [1, 1]),
            conv("branch7x7dbl_2", within, [7, 1]),
            conv("branch7x7dbl_3", within, [1, 7]),
            conv("branch7x7dbl_4", within, [7, 1]),
            conv("branch7x7dbl_5", 192, [1, 7]),
        ],
        vec![Pooled(Pool::Mean), conv("branch_pool", 192, [1, 1])],
    ])
}

fn block_d(block: &str) -> Step<Plan> {
    let conv = |branch, outputs, kernel| conv(format!("{block}.{branch}"), outputs, kernel);
    Branches(vec![
        vec![conv("branch3x3_1", 192, [1, 1]), inner(format!("{block}.branch3x3_2"), 320, 2)],
        vec![
            conv("branch7x7x3_1", 192, [1, 1]),
            conv("branch7x7x3_2", 192, [1, 7]),
            conv("branch7x7x3_3", 192, [7, 1]),
            inner(format!("{block}.branch7x7x3_4"), 192, 2),
        ],
        vec![Pooled(Pool::Halve)],
    ])
}

fn block_e(block: &str, pool: Pool) -> Step<Plan> {
    let conv = |branch, outputs, kernel| conv(format!("{block}.{branch}"), outputs, kernel);
    let cross = |a, b| Branches(vec![vec![conv(a, 384, [1, 3])], vec![conv(b, 384, [3, 1])]]);
    Branches(vec![
        vec![conv("branch1x1", 320, [1, 1])],
        vec![conv("branch3x3_1", 384, [1, 1]), cross("branch3x3_2a", "branch3x3_2b")],
        vec![
            conv("branch3x3dbl_1", 448, [1, 1]),
            conv("branch3x3dbl_2", 384, [3, 3]),
            cross("branch3x3dbl_3a", "branch3x3dbl_3b"),
        ],
        vec![Pooled(pool), conv("branch_pool", 192, [1, 1])],
    ])
}
