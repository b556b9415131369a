#pragma once

#include <cstdint>

namespace moai::plan {

// The solver's inner loops. Sums and minima of the same numbers in any lane width: the same bits on
// every machine. Rows are contiguous; +infinity is an ordinary value; nothing is allocated.

// out[j] = min over r < count of base[r] + rows[r][j], for j < length; +infinity without rows.
void min_plus_rows(const double* base, const double* const* rows, int32_t count, int32_t length, double* out);

// min over j < length of row[j] + add[j]; +infinity if empty.
double min_plus_row(const double* row, const double* add, int32_t length);

// out[j] += row[j], for j < length.
void add_row(const double* row, int32_t length, double* out);

}  // namespace moai::plan
