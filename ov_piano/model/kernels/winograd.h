// Winograd's F(4, 3) (arXiv 1509.09308): four outputs of a convolution with three taps from six products ("points").
#pragma once

// points = FROM_IN x six inputs; outputs = TO_OUT x points
constexpr float FROM_IN[6][6] = {{4, 0, -5, 0, 1, 0},   {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                 {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
constexpr float TO_OUT[4][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
