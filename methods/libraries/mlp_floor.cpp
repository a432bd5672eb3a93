// Meta-gradients of a fully connected network 1 -> hidden ... -> 1 with mean squared error, written by hand.
//
// One task after another, with all of its data in the first caches. Inside, every row (of a weight matrix, of
// the activations of one point) is padded with zeros to whole vectors, so that the loops run over the
// contiguous hidden dimension. Hessian products are Pearlmutter's (1994): forward over reverse, on the
// activations h and the errors d of the point of linearisation, computed once for it.
//
// Built without -ffast-math: sums are vectors by type, and the order of the operations is the one written.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8;  // a tile of ROWS x COLUMNS vectors of sums stays in registers
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 4;
#else
constexpr int BYTES = 16, ROWS = 4;
#endif
constexpr int COLUMNS = 3;

template <class T> struct Real;
template <> struct Real<float> {
    using Int = int32_t;
    static constexpr int mantissa = 23, degree = 7;  // of the series of expm1 on [-ln 2 / 2, ln 2 / 2]
    static constexpr float magic = 12582912.0f, cap = 20.0f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <> struct Real<double> {
    using Int = int64_t;
    static constexpr int mantissa = 52, degree = 14;
    static constexpr double magic = 6755399441055744.0, cap = 40.0;
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
};

template <class T> struct Lanes {
    using Int = typename Real<T>::Int;
    typedef T V __attribute__((vector_size(BYTES)));
    typedef Int I __attribute__((vector_size(BYTES)));
    static constexpr long N = BYTES / sizeof(T);
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> using Ints = typename Lanes<T>::I;
#define INLINE __attribute__((always_inline)) inline

template <class T> INLINE Vec<T> load(const T *p) { return *reinterpret_cast<const Vec<T> *>(p); }
template <class T> INLINE void store(T *p, Vec<T> v) { *reinterpret_cast<Vec<T> *>(p) = v; }
template <class T> INLINE Vec<T> all(T x) { return x - Vec<T>{}; }  // - 0 is folded away, + 0 is not

// The lanes of a and b, one after the other, in the order of the indices.
template <class T, long... index> INLINE Vec<T> pick(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, index...);
#else
    return __builtin_shuffle(a, b, Ints<T>{index...});
#endif
}
template <class T, long step, long... j>
INLINE void exchange(Vec<T> &a, Vec<T> &b, std::integer_sequence<long, j...>) {
    constexpr long N = Lanes<T>::N;
    const Vec<T> low = pick<T, (j & step ? N + j - step : j)...>(a, b);
    b = pick<T, (j & step ? N + j : j + step)...>(a, b);
    a = low;
}
template <class T, long step, long... j> INLINE Vec<T> fold(Vec<T> v, std::integer_sequence<long, j...> all) {
    if constexpr (step == 0) return v;
    else return fold<T, step / 2>(v + pick<T, (j ^ step)...>(v, v), all);
}
template <class T> INLINE T sum(Vec<T> v) {
    return fold<T, Lanes<T>::N / 2>(v, std::make_integer_sequence<long, Lanes<T>::N>())[0];
}
template <class T, long step> INLINE void exchange_rows(Vec<T> *row) {
    constexpr long N = Lanes<T>::N;
#pragma GCC unroll 16
    for (long i = 0; i < N; i++)
        if (!(i & step)) exchange<T, step>(row[i], row[i + step], std::make_integer_sequence<long, N>());
    if constexpr (step > 1) exchange_rows<T, step / 2>(row);
}

// to[column][row] = from[row][column]; what is beyond the rows becomes zero up to a whole vector.
template <class T>
void transpose(const T *from, long rows, long columns, long from_width, T *to, long to_width) {
    constexpr long N = Lanes<T>::N;
    for (long column = 0; column < columns; column += N)
        for (long row = 0; row < rows; row += N) {
            Vec<T> block[N];
            const T *corner = from + row * from_width + column;
#pragma GCC unroll 16
            for (long i = 0; i < N; i++) block[i] = row + i < rows ? load(corner + i * from_width) : Vec<T>{};
            exchange_rows<T, N / 2>(block);
            T *target = to + column * to_width + row;
#pragma GCC unroll 16
            for (long i = 0; i < N; i++)
                if (column + i < columns) store(target + i * to_width, block[i]);
        }
}

// sum over k < depth of a[row * a_row + k * a_step] * b[k * b_width + column]
template <class T> struct Product {
    const T *a;
    long a_row, a_step;
    const T *b;
    long b_width, depth;
};

// to[row * width + column] = first[column] + the sum of the products; no first is zero.
template <class T> struct Sum {
    T *to;
    long rows, width;
    const T *first;
    Product<T> one, two;
};

template <int M, int N, class T> INLINE void tile(const Sum<T> &s, long row, long column) {
    constexpr long L = Lanes<T>::N;
    Vec<T> sums[M][N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
        const Vec<T> first = s.first ? load(s.first + column + j * L) : Vec<T>{};
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) sums[i][j] = first;
    }
    for (const Product<T> *p = &s.one; p <= &s.two; p++) {
        const long a_row = p->a_row, a_step = p->a_step, b_width = p->b_width;
        const T *a = p->a + row * a_row, *b = p->b + column;
        for (long k = p->depth; k > 0; k--, a += a_step, b += b_width) {
            Vec<T> right[N];
#pragma GCC unroll 8
            for (int j = 0; j < N; j++) right[j] = load(b + j * L);
#pragma GCC unroll 8
            for (int i = 0; i < M; i++) {
                const Vec<T> left = all(a[i * a_row]);
#pragma GCC unroll 8
                for (int j = 0; j < N; j++) sums[i][j] += left * right[j];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; i++)
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) store(s.to + (row + i) * s.width + column + j * L, sums[i][j]);
}

template <int M, int N, class T> void strip(const Sum<T> &s, long row, long column) {
    for (; row + M <= s.rows; row += M) tile<M, N>(s, row, column);
    if constexpr (M > 1) strip<M / 2, N>(s, row, column);
}

template <class T, int N = COLUMNS> void multiply(const Sum<T> &s, long column = 0) {
    for (; column + N * Lanes<T>::N <= s.width; column += N * Lanes<T>::N) strip<ROWS, N>(s, 0, column);
    if constexpr (N > 1) multiply<T, N - 1>(s, column);
}

struct Relu {
    template <class T> static INLINE Vec<T> value(Vec<T> z) { return z < 0 ? Vec<T>{} : z; }
    template <class T> static INLINE Vec<T> slope(Vec<T> h) { return h > 0 ? all<T>(1) : Vec<T>{}; }
    template <class T> static INLINE Vec<T> bend(Vec<T>) { return Vec<T>{}; }  // curvature / slope
};

struct Tanh {
    // expm1(2 |z|) / (expm1(2 |z|) + 2), expm1 by its series after 2 |z| = n ln 2 + r.
    template <class T> static INLINE Vec<T> value(Vec<T> z) {
        using R = Real<T>;
        using I = Ints<T>;
        const I sign = (I)z & (I)all<T>(T(-0.0));
        Vec<T> y = (Vec<T>)((I)z ^ sign) * T(2);
        y = y > all(R::cap) ? all(R::cap) : y;  // NaN stays
        const Vec<T> shifted = y * T(1.4426950408889634) + R::magic, n = shifted - R::magic;
        const Vec<T> r = (y - n * R::ln2_high) - n * R::ln2_low;
        const Vec<T> power = (Vec<T>)(((I)shifted << R::mantissa) + (I)all<T>(1));
        constexpr auto c = coefficients<T>();
        Vec<T> series = all(c.of[R::degree]);
#pragma GCC unroll 16
        for (int d = R::degree - 1; d >= 2; d--) series = series * r + c.of[d];
        series = (series * r) * r + r;
        const Vec<T> top = power * series + (power - T(1));
        return (Vec<T>)((I)ratio(top, top + T(2)) | sign);
    }
    template <class T> static INLINE Vec<T> slope(Vec<T> h) { return T(1) - h * h; }
    template <class T> static INLINE Vec<T> bend(Vec<T> h) { return T(-2) * h; }

  private:
    template <class T> struct Coefficients { T of[16]; };
    template <class T> static constexpr Coefficients<T> coefficients() {
        Coefficients<T> c{};
        double factorial = 1;
        for (int d = 1; d < 16; d++) c.of[d] = T(1 / (factorial *= d));
        return c;
    }
    template <class V> static INLINE V ratio(V top, V bottom) {
        return top / bottom;
    }
};

// The inputs, and what a pass over the points of one task leaves: activations h and errors d of every hidden
// layer, [points, width], and the derivative of the loss in every output.
template <class T> struct Points {
    long count;
    const T *x, *y;
    std::vector<T *> h, d;
    T *slope;
};

template <class T, class A> class Network {
    static constexpr long L = Lanes<T>::N;
    using V = Vec<T>;

  public:
    const std::vector<long> width;  // of the hidden layers
    std::vector<long> padded;
    std::vector<long> weight, bias;  // where they lie in a padded vector; the last of both is the output's
    const size_t top;  // the last hidden layer
    long size = 0, n_params = 0;

    explicit Network(std::vector<long> hidden) : width(std::move(hidden)), top(width.size() - 1) {
        for (long w : width) padded.push_back((w + L - 1) / L * L);
        for (size_t l = 0; l <= width.size(); l++) {
            const bool last = l == width.size();
            n_params += (last ? 1 : width[l]) * ((l == 0 ? 1 : width[l - 1]) + 1);
            weight.push_back(size);
            size += l == 0 ? padded[0] : (last ? 1 : width[l]) * padded[l - 1];
            bias.push_back(size);
            size += last ? L : padded[l];
        }
        for (size_t l = 1; l < width.size(); l++) {
            turned.push_back(take(width[l - 1] * padded[l]));
            tangent_turned.push_back(take(width[l - 1] * padded[l]));
        }
    }

    T *take(long length) {  // zeros, for as long as the network lives
        const size_t bytes = (length * sizeof(T) + 63) / 64 * 64;
        T *memory = static_cast<T *>(std::aligned_alloc(64, bytes ? bytes : 64));
        if (!memory) throw std::bad_alloc();
        owned.emplace_back(memory, std::free);
        std::memset(memory, 0, bytes);
        return memory;
    }

    Points<T> points(long count) {
        Points<T> made{count, nullptr, nullptr, {}, {}, take(count)};
        for (long p : padded) {
            made.h.push_back(take(count * p));
            made.d.push_back(take(count * p));
        }
        return made;
    }

    void reserve_tangents(long count) {
        for (long p : padded) {
            rh.push_back(take(count * p));
            rd.push_back(take(count * p));
        }
        re = take(count * *std::max_element(padded.begin(), padded.end()));
        rslope = take(count);
    }

    void pack(const T *flat, T *phi) const { copy<true>(const_cast<T *>(flat), phi); }
    void unpack(const T *phi, T *flat) const { copy<false>(flat, const_cast<T *>(phi)); }

    // Activations and errors at phi.
    void linearise(const T *phi, Points<T> &at) {
        const long n = at.count;
        for (size_t l = 1; l <= top; l++)
            transpose(phi + weight[l], width[l], width[l - 1], padded[l - 1], turned[l - 1], padded[l]);
        for (long i = 0; i < n; i++)
            for (long k = 0; k < padded[0]; k += L)
                store(at.h[0] + i * padded[0] + k,
                      at.x[i] * load(phi + weight[0] + k) + load(phi + bias[0] + k));
        activate(at.h[0], n * padded[0]);
        for (size_t l = 1; l <= top; l++) {
            multiply<T>({at.h[l], n, padded[l], phi + bias[l], forward(at.h[l - 1], l, turned[l - 1]), {}});
            activate(at.h[l], n * padded[l]);
        }
        const T scale = T(2) / T(n), *out = phi + weight[top + 1];
        const long p = padded[top];
        for (long i = 0; i < n; i++) {
            const T *h = at.h[top] + i * p;
            T *d = at.d[top] + i * p;
            V z{};
            for (long k = 0; k < p; k += L) z += load(h + k) * load(out + k);
            at.slope[i] = scale * (sum<T>(z) + phi[bias[top + 1]] - at.y[i]);
            for (long k = 0; k < p; k += L)
                store(d + k, at.slope[i] * load(out + k) * A::template slope<T>(load(h + k)));
        }
        for (size_t l = top; l >= 1; l--) {
            const T *h = at.h[l - 1];
            T *d = at.d[l - 1];
            multiply<T>({d, n, padded[l - 1], nullptr, back(at.d[l], l, phi), {}});
            for (long k = 0; k < n * padded[l - 1]; k += L)
                store(d + k, load(d + k) * A::template slope<T>(load(h + k)));
        }
    }

    // The gradient of the loss, from what `linearise` left.
    void gradient(const Points<T> &at, T *g) const {
        first_layer(at, at.d[0], g);
        for (size_t l = 1; l <= top; l++) {
            multiply<T>({g + weight[l], width[l], padded[l - 1], nullptr,
                         outer(at.d[l], l, at.h[l - 1], at.count), {}});
            sum_of_rows(at.d[l], at.count, padded[l], g + bias[l]);
        }
        for (long k = 0; k < padded[top]; k += L) {
            V last{};
            for (long i = 0; i < at.count; i++) last += at.slope[i] * load(at.h[top] + i * padded[top] + k);
            store(g + weight[top + 1] + k, last);
        }
        g[bias[top + 1]] = sum_of(at.slope, at.count);
    }

    // The Hessian of the loss at phi times v, from what `linearise` left there.
    void product(const T *phi, const T *v, const Points<T> &at, T *hv) {
        const long n = at.count, p = padded[top];
        for (size_t l = 1; l <= top; l++)
            transpose(v + weight[l], width[l], width[l - 1], padded[l - 1], tangent_turned[l - 1], padded[l]);
        for (long i = 0; i < n; i++)
            for (long k = 0; k < padded[0]; k += L)
                store(rh[0] + i * padded[0] + k, at.x[i] * load(v + weight[0] + k) + load(v + bias[0] + k));
        bend(at, 0);
        for (size_t l = 1; l <= top; l++) {
            multiply<T>({rh[l], n, padded[l], v + bias[l], forward(at.h[l - 1], l, tangent_turned[l - 1]),
                         forward(rh[l - 1], l, turned[l - 1])});
            bend(at, l);
        }
        const T scale = T(2) / T(n), *out = phi + weight[top + 1], *rout = v + weight[top + 1];
        for (long i = 0; i < n; i++) {
            const T *h = at.h[top] + i * p, *r = rh[top] + i * p;
            V rz{};
            for (long k = 0; k < p; k += L) rz += load(h + k) * load(rout + k) + load(r + k) * load(out + k);
            rslope[i] = scale * (sum<T>(rz) + v[bias[top + 1]]);
            for (long k = 0; k < p; k += L)
                store(re + i * p + k, rslope[i] * load(out + k) + at.slope[i] * load(rout + k));
        }
        pull(at, top);
        for (size_t l = top; l >= 1; l--) {
            multiply<T>({re, n, padded[l - 1], nullptr, back(rd[l], l, phi), back(at.d[l], l, v)});
            pull(at, l - 1);
        }
        first_layer(at, rd[0], hv);
        for (size_t l = 1; l <= top; l++) {
            multiply<T>({hv + weight[l], width[l], padded[l - 1], nullptr, outer(rd[l], l, at.h[l - 1], n),
                         outer(at.d[l], l, rh[l - 1], n)});
            sum_of_rows(rd[l], n, padded[l], hv + bias[l]);
        }
        for (long k = 0; k < p; k += L) {
            V last{};
            for (long i = 0; i < n; i++)
                last += rslope[i] * load(at.h[top] + i * p + k) + at.slope[i] * load(rh[top] + i * p + k);
            store(hv + weight[top + 1] + k, last);
        }
        hv[bias[top + 1]] = sum_of(rslope, n);
    }

  private:
    std::vector<std::unique_ptr<void, void (*)(void *)>> owned;
    std::vector<T *> turned, tangent_turned;  // weights and their tangents, transposed
    std::vector<T *> rh, rd;                  // tangents of h and d
    T *re = nullptr, *rslope = nullptr;       // of d before the slope of its layer, of the output's

    Product<T> forward(const T *h, size_t l, const T *matrix) const {
        return {h, padded[l - 1], 1, matrix, padded[l], width[l - 1]};
    }
    Product<T> back(const T *d, size_t l, const T *phi) const {
        return {d, padded[l], 1, phi + weight[l], padded[l - 1], width[l]};
    }
    Product<T> outer(const T *d, size_t l, const T *h, long count) const {
        return {d, 1, padded[l], h, padded[l - 1], count};
    }

    static void activate(T *z, long size) {
        for (long k = 0; k < size; k += L) store(z + k, A::template value<T>(load(z + k)));
    }
    // From the tangent of z in rh: that of h, and the part of that of d which is due to the slope's.
    void bend(const Points<T> &at, size_t l) {
        for (long k = 0; k < at.count * padded[l]; k += L) {
            const V h = load(at.h[l] + k), rz = load(rh[l] + k);
            store(rh[l] + k, A::template slope<T>(h) * rz);
            store(rd[l] + k, A::template bend<T>(h) * rz * load(at.d[l] + k));
        }
    }
    void pull(const Points<T> &at, size_t l) {
        for (long k = 0; k < at.count * padded[l]; k += L)
            store(rd[l] + k, load(rd[l] + k) + A::template slope<T>(load(at.h[l] + k)) * load(re + k));
    }

    void first_layer(const Points<T> &at, const T *d, T *g) const {
        for (long k = 0; k < padded[0]; k += L) {
            V first{};
            for (long i = 0; i < at.count; i++) first += at.x[i] * load(d + i * padded[0] + k);
            store(g + weight[0] + k, first);
        }
        sum_of_rows(d, at.count, padded[0], g + bias[0]);
    }

    static void sum_of_rows(const T *d, long rows, long p, T *to) {
        for (long k = 0; k < p; k += L) {
            V total{};
            for (long i = 0; i < rows; i++) total += load(d + i * p + k);
            store(to + k, total);
        }
    }

    static T sum_of(const T *values, long count) {
        T total = 0;
        for (long i = 0; i < count; i++) total += values[i];
        return total;
    }

    // The flat vector is layer after layer its weights [out, in], then its biases.
    template <bool in> void copy(T *flat, T *phi) const {
        auto row = [&](long place, long length) {
            if (in) std::memcpy(phi + place, flat, length * sizeof(T));
            else std::memcpy(flat, phi + place, length * sizeof(T));
            flat += length;
        };
        for (size_t l = 0; l <= width.size(); l++) {
            const bool last = l == width.size();
            if (l == 0) row(weight[0], width[0]);  // its rows hold one number each
            else for (long o = 0; o < (last ? 1 : width[l]); o++)
                row(weight[l] + o * padded[l - 1], width[l - 1]);
            row(bias[l], last ? 1 : width[l]);
        }
    }
};

template <class T> T dot(const T *a, const T *b, long size) {
    Vec<T> one{}, two{};
    long k = 0;
    for (; k + 2 * Lanes<T>::N <= size; k += 2 * Lanes<T>::N) {
        one += load(a + k) * load(b + k);
        two += load(a + k + Lanes<T>::N) * load(b + k + Lanes<T>::N);
    }
    if (k < size) one += load(a + k) * load(b + k);
    return sum<T>(one + two);
}

enum Kind : long { FIRST_ORDER, ADJOINT, IMPLICIT };

struct Settings {
    long kind, layers, tasks, shots, queries, steps, iterations;
    double rate, strength;
};

// `sound` is, per task, whether phi is finite and, of the implicit gradient, every curvature met was positive.
template <class T, class A>
void run(const Settings &s, const long *hidden, const T *theta, const T *const *data, T *meta_grad, T *adapted,
         uint8_t *sound) {
    constexpr long L = Lanes<T>::N;
    using V = Vec<T>;
    Network<T, A> net(std::vector<long>(hidden, hidden + s.layers));
    const long size = net.size, n_params = net.n_params;
    const T rate = T(s.rate), strength = T(s.strength);
    Points<T> support = net.points(s.shots), query = net.points(s.queries);
    if (s.kind != FIRST_ORDER) net.reserve_tangents(s.shots);
    const long kept = s.kind == ADJOINT ? s.steps + 1 : 1;  // iterates
    T *path = net.take(kept * size), *start = net.take(size), *v = net.take(size), *g = net.take(size);
    T *bar = s.kind == ADJOINT ? net.take(size) : nullptr;
    T *x = nullptr, *r = nullptr;
    if (s.kind == IMPLICIT) x = net.take(size), r = net.take(size);
    for (long t = 0; t < s.tasks; t++) {
        support.x = data[0] + t * s.shots, support.y = data[1] + t * s.shots;
        query.x = data[2] + t * s.queries, query.y = data[3] + t * s.queries;
        net.pack(theta + t * n_params, start);
        std::memcpy(path, start, size * sizeof(T));
        T *phi = path;
        for (long step = 0; step < s.steps; step++) {
            const T *old = phi;
            phi = s.kind == ADJOINT ? phi + size : path;
            net.linearise(old, support);
            net.gradient(support, g);
            for (long k = 0; k < size; k += L) {
                const V p = load(old + k);
                store(phi + k, p - rate * (load(g + k) + strength * (p - load(start + k))));
            }
        }
        net.unpack(phi, adapted + t * n_params);
        net.linearise(phi, query);
        net.gradient(query, v);
        V lost{};
        for (long k = 0; k < size; k += L) lost += load(phi + k) - load(phi + k);  // NaN if not finite
        sound[t] = sum<T>(lost) == 0;
        if (s.kind == ADJOINT) {
            std::memset(bar, 0, size * sizeof(T));
            const T share = rate * strength;
            for (long step = s.steps - 1; step >= 0; step--) {
                const T *at = path + step * size;
                net.linearise(at, support);
                net.product(at, v, support, g);
                for (long k = 0; k < size; k += L) {
                    const V w = load(v + k);
                    store(bar + k, load(bar + k) + share * w);
                    store(v + k, w - rate * (load(g + k) + strength * w));
                }
            }
            for (long k = 0; k < size; k += L) store(v + k, load(v + k) + load(bar + k));
        } else if (s.kind == IMPLICIT) {  // conjugate gradient from zero on the system scaled to max |v| = 1
            T largest = 0;
            for (long k = 0; k < size; k++) largest = std::fabs(v[k]) > largest ? std::fabs(v[k]) : largest;
            const T scale = largest > 0 && std::isfinite(largest) ? std::ldexp(T(1), std::ilogb(largest)) : T(1);
            for (long k = 0; k < size; k++) x[k] = 0, r[k] = v[k] = v[k] / scale;
            T rr = dot(r, r, size);
            net.linearise(phi, support);
            for (long iteration = 0; iteration < s.iterations && rr != 0; iteration++) {
                net.product(phi, v, support, g);
                for (long k = 0; k < size; k += L) store(g + k, load(g + k) + strength * load(v + k));
                const T curvature = dot(v, g, size);
                if (!(curvature > 0)) sound[t] = 0;
                if (curvature == 0) break;
                const T length = rr / curvature;
                for (long k = 0; k < size; k += L) {
                    store(x + k, load(x + k) + length * load(v + k));
                    store(r + k, load(r + k) - length * load(g + k));
                }
                const T after = dot(r, r, size), turn = after / rr;
                rr = after;
                for (long k = 0; k < size; k += L) store(v + k, load(r + k) + turn * load(v + k));
            }
            for (long k = 0; k < size; k += L) store(v + k, strength * scale * load(x + k));
        }
        net.unpack(v, meta_grad + t * n_params);
    }
}

template <class T>
int guarded(const Settings *s, const long *hidden, long activation, const T *theta, const T *const *data,
            T *meta_grad, T *adapted, uint8_t *sound) {
    try {
        if (activation) run<T, Tanh>(*s, hidden, theta, data, meta_grad, adapted, sound);
        else run<T, Relu>(*s, hidden, theta, data, meta_grad, adapted, sound);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

}  // namespace

extern "C" int meta_gradients_float32(const Settings *s, const long *hidden, long activation, const float *theta,
                                      const float *const *data, float *meta_grad, float *adapted,
                                      uint8_t *sound) {
    return guarded(s, hidden, activation, theta, data, meta_grad, adapted, sound);
}
extern "C" int meta_gradients_float64(const Settings *s, const long *hidden, long activation,
                                      const double *theta, const double *const *data, double *meta_grad,
                                      double *adapted, uint8_t *sound) {
    return guarded(s, hidden, activation, theta, data, meta_grad, adapted, sound);
}
