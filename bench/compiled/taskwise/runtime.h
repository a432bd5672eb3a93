// What generated kernels are made of: vectors with tails, matrix products, transposes, sums. All sizes are
// template arguments. Built without -ffast-math: the order of the operations is the one written.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(VECTOR_MATH)  // the loops' calls of these become calls for whole vectors
#define OF_VECTORS(name) \
    _Pragma("omp declare simd notinbranch") float name##f(float) noexcept; \
    _Pragma("omp declare simd notinbranch") double name(double) noexcept;
extern "C" {
OF_VECTORS(exp)
OF_VECTORS(expm1)
OF_VECTORS(log)
OF_VECTORS(log1p)
OF_VECTORS(tanh)
OF_VECTORS(sin)
OF_VECTORS(cos)
}
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;  // a tile of ROWS x COLUMNS vectors of sums stays in registers
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 4;
#else
constexpr int BYTES = 16, ROWS = 4;
#endif
constexpr int COLUMNS = 3;
#define INLINE __attribute__((always_inline)) inline
#if defined(__clang__)
#define APART __attribute__((noinline))
#else
#define APART __attribute__((noipa))  // a clone for one caller forgets __restrict
#endif

template <class T> struct Lanes {
    typedef T V __attribute__((vector_size(BYTES)));
    typedef T Loose __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
    using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef Int I __attribute__((vector_size(BYTES)));
    static constexpr int N = BYTES / sizeof(T);
};
template <class T> using Vec = typename Lanes<T>::V;

// The first n lanes; the others are zero.
template <class T, int n> INLINE Vec<T> load(const T *p) {
    if constexpr (n >= Lanes<T>::N) return *reinterpret_cast<const typename Lanes<T>::Loose *>(p);
#if defined(__AVX512F__)
    else if constexpr (sizeof(T) == 4) return _mm512_maskz_loadu_ps((1u << n) - 1, p);
    else return _mm512_maskz_loadu_pd((1u << n) - 1, p);
#else
    else {
        Vec<T> v{};
        std::memcpy(&v, p, n * sizeof(T));
        return v;
    }
#endif
}
template <class T, int n> INLINE void store(T *p, Vec<T> v) {
    if constexpr (n >= Lanes<T>::N) *reinterpret_cast<typename Lanes<T>::Loose *>(p) = v;
#if defined(__AVX512F__)
    else if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, (1u << n) - 1, v);
    else _mm512_mask_storeu_pd(p, (1u << n) - 1, v);
#else
    else std::memcpy(p, &v, n * sizeof(T));
#endif
}

// The lanes of a and b, one after the other, in the order of the indices.
template <class T, int... index> INLINE Vec<T> pick(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, index...);
#else
    return __builtin_shuffle(a, b, typename Lanes<T>::I{index...});
#endif
}
template <class T, int step, int... j> INLINE Vec<T> fold(Vec<T> v, std::integer_sequence<int, j...> all) {
    if constexpr (step == 0) return v;
    else return fold<T, step / 2>(v + pick<T, (j ^ step)...>(v, v), all);
}
template <class T> INLINE T sum(Vec<T> v) {
    return fold<T, Lanes<T>::N / 2>(v, std::make_integer_sequence<int, Lanes<T>::N>())[0];
}

// Rows i and i + step of a block: swap the off-diagonal step x step squares.
template <class T, int step, int... j>
INLINE void swap_squares(Vec<T> &a, Vec<T> &b, std::integer_sequence<int, j...>) {
    constexpr int N = Lanes<T>::N;
    const Vec<T> upper = pick<T, (j & step ? N + j - step : j)...>(a, b);
    b = pick<T, (j & step ? N + j : j + step)...>(a, b);
    a = upper;
}
template <class T, int step> INLINE void turn(Vec<T> *row) {
    constexpr int N = Lanes<T>::N;
#pragma GCC unroll 16
    for (int i = 0; i < N; i++)
        if (!(i & step)) swap_squares<T, step>(row[i], row[i + step], std::make_integer_sequence<int, N>());
    if constexpr (step > 1) turn<T, step / 2>(row);
}
template <class T, int R, int C, long width, long to_width> INLINE void turn_block(const T *from, T *to) {
    constexpr int N = Lanes<T>::N;
    Vec<T> block[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) block[i] = i < R ? load<T, C>(from + i * width) : Vec<T>{};
    turn<T, N / 2>(block);
#pragma GCC unroll 16
    for (int i = 0; i < N; i++)
        if (i < C) store<T, R>(to + i * to_width, block[i]);
}
template <class T, int R, int C, long width, long to_width> INLINE void turn_rows(const T *from, T *to) {
    constexpr int N = Lanes<T>::N;
    int j = 0;
    for (; j + N <= C; j += N) turn_block<T, R, N, width, to_width>(from + j, to + j * to_width);
    if constexpr (C % N != 0) turn_block<T, R, C % N, width, to_width>(from + j, to + j * to_width);
}
// to[column][row] = from[row][column]
template <class T, int R, int C, long width, long to_width>
APART void transpose(const T *__restrict from, T *__restrict to) {
    constexpr int N = Lanes<T>::N;
    int i = 0;
    for (; i + N <= R; i += N) turn_rows<T, N, C, width, to_width>(from + i * width, to + i);
    if constexpr (R % N != 0) turn_rows<T, R % N, C, width, to_width>(from + i * width, to + i);
}

// c[m][n] = (first ? 0 : c[m][n]) + sum over k of a[m][k] b[k][n]; b and c have their columns side by side.
template <class T, int M, int V, int last, int K, long a_m, long a_k, long b_k, long c_m, bool first>
INLINE void tile(const T *__restrict a, const T *__restrict b, T *__restrict c) {
    constexpr int L = Lanes<T>::N;
    Vec<T> sums[M][V];
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            if constexpr (first) sums[i][j] = Vec<T>{};
            else sums[i][j] = j + 1 < V ? load<T, L>(c + i * c_m + j * L) : load<T, last>(c + i * c_m + j * L);
#pragma GCC unroll 1
    for (int k = 0; k < K; k++) {
        Vec<T> right[V];
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            right[j] = j + 1 < V ? load<T, L>(b + k * b_k + j * L) : load<T, last>(b + k * b_k + j * L);
#pragma GCC unroll 16
        for (int i = 0; i < M; i++) {
            const Vec<T> left = a[i * a_m + k * a_k] - Vec<T>{};
#pragma GCC unroll 8
            for (int j = 0; j < V; j++) sums[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int j = 0; j < V; j++)
            if (j + 1 < V) store<T, L>(c + i * c_m + j * L, sums[i][j]);
            else store<T, last>(c + i * c_m + j * L, sums[i][j]);
}
template <class T, int M, int V, int last, int K, long a_m, long a_k, long b_k, long c_m, bool first>
INLINE void strip(const T *a, const T *b, T *c) {
    constexpr int parts = (M + ROWS - 1) / ROWS, rows = M / parts, longer = M % parts;
    int m = 0;
    if constexpr (longer != 0)
#pragma GCC unroll 1
        for (int i = 0; i < longer; i++, m += rows + 1)
            tile<T, rows + 1, V, last, K, a_m, a_k, b_k, c_m, first>(a + m * a_m, b, c + m * c_m);
#pragma GCC unroll 1
    for (int i = longer; i < parts; i++, m += rows)
        tile<T, rows, V, last, K, a_m, a_k, b_k, c_m, first>(a + m * a_m, b, c + m * c_m);
}
template <class T, int M, int N, int K, long a_m, long a_k, long b_k, bool first>
APART void multiply(const T *__restrict a, const T *__restrict b, T *__restrict c) {
    constexpr int L = Lanes<T>::N, W = COLUMNS * L, rest = N % W;
    int n = 0;
#pragma GCC unroll 1
    for (; n + W <= N; n += W) strip<T, M, COLUMNS, L, K, a_m, a_k, b_k, N, first>(a, b + n, c + n);
    if constexpr (rest != 0)
        strip<T, M, (rest + L - 1) / L, (rest - 1) % L + 1, K, a_m, a_k, b_k, N, first>(a, b + n, c + n);
}

// c[m] = (first ? 0 : c[m]) + sum over k of a[m][k] b[k], with a's and b's terms side by side.
template <class T, int M, int K, long a_m, bool first>
APART void dots(const T *__restrict a, const T *__restrict b, T *__restrict c) {
    constexpr int L = Lanes<T>::N, rest = K % L;
#pragma GCC unroll 1
    for (int m = 0; m < M; m++) {
        Vec<T> one{}, two{};
        int k = 0;
        for (; k + 2 * L <= K; k += 2 * L) {
            one += load<T, L>(a + m * a_m + k) * load<T, L>(b + k);
            two += load<T, L>(a + m * a_m + k + L) * load<T, L>(b + k + L);
        }
        if (k + L <= K) one += load<T, L>(a + m * a_m + k) * load<T, L>(b + k), k += L;
        if constexpr (rest != 0) two += load<T, rest>(a + m * a_m + k) * load<T, rest>(b + k);
        const T total = sum<T>(one + two);
        c[m] = first ? total : c[m] + total;
    }
}

template <class T> INLINE T relu(T x) { return x < 0 ? T(0) : x; }
template <class T> INLINE T larger(T a, T b) { return a > b || a != a ? a : b; }
template <class T> INLINE T smaller(T a, T b) { return a < b || a != a ? a : b; }

}  // namespace
