/* What the native engine computes: networks, softmax, entropy, drift, their gradients, and Adam.
 *
 * One file of plain C, without headers of Python or torch. engine.py hands in pointers to arrays that
 * it owns, C-contiguous and float32 unless said otherwise, and reads the results where they were
 * written. Axes: R runs, B responses of T tokens, N tokens of a minibatch, F features of an
 * observation, H hidden units, V actions, W = V rounded up to whole vectors, S states.
 *
 * A *state* is one distinct observation of a run: tokens with equal observations share one, and
 * everything that depends on the observation alone is computed once for it. Runs are independent, and
 * what is computed for one is the same, bit by bit, whichever others stand beside it: every sum has
 * one order, and nothing here asks the compiler to change it (no -ffast-math).
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- Vectors: eight floats, which the compiler maps to what the processor has ---- */

typedef float vec __attribute__((vector_size(32)));
typedef float loose __attribute__((vector_size(32), aligned(4), may_alias)); /* anywhere in memory */
typedef int32_t ints __attribute__((vector_size(32)));
enum { LANES = 8 };

static inline vec load(const float *x) { return *(const loose *)x; }
static inline void store(float *x, vec v) { *(loose *)x = v; }
static inline vec all(float x) { return (vec){x, x, x, x, x, x, x, x}; }
static inline vec choose(ints mask, vec yes, vec no) { return (vec)((mask & (ints)yes) | (~mask & (ints)no)); }
static inline vec positive(vec x) { return (vec)((ints)x & 0x7fffffff); }

/* Sum of the lanes, pair by pair. */
static inline float total(vec v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

/* P with e^r = 1 + r + r^2 P(r) for |r| <= log(2)/2, relative error 1e-7 (Cephes, expf). */
#define EXP_POLYNOMIAL(r)                                                                            \
    (((((1.9875691500e-4f * (r) + 1.3981999507e-3f) * (r) + 8.3334519073e-3f) * (r) +                \
       4.1665795894e-2f) * (r) + 1.6666665459e-1f) * (r) + 5.0000001201e-1f)
#define LOG2E 1.44269504088896341f
#define LN2_HIGH 0.693359375f /* log(2) in two parts: the product with the first is exact */
#define LN2_LOW -2.12194440e-4f
#define ROUND 12582912.0f /* 1.5 * 2^23: adding and subtracting it rounds to a whole number */

/* e^x = 2^n e^r with n = round(x / log 2); x is held inside [-87, 88]; NaN stays NaN. */
static inline vec exponential(vec x) {
    x = choose(x < -87.0f, all(-87.0f), x);
    x = choose(x > 88.0f, all(88.0f), x);
    vec n = (x * LOG2E + ROUND) - ROUND;
    vec r = (x - n * LN2_HIGH) - n * LN2_LOW;
    vec y = EXP_POLYNOMIAL(r) * r * r + r + 1.0f;
    ints whole = __builtin_convertvector(choose(n == n, n, all(0.0f)), ints);
    return y * (vec)((whole + 127) << 23);
}

/* C[m, n] = bias[n] + sum_k A[m sm + k sk] B[k ldb + n], the sum in the order of k.
 *
 * Tiles of six rows and two vectors of columns, kept in registers. */
#define TILE(ROWS, VECTORS)                                                                          \
    static inline void tile_##ROWS##_##VECTORS(int64_t K, const float *A, int64_t sm, int64_t sk,    \
                                               const float *B, int64_t ldb, float *C, int64_t ldc,   \
                                               const float *bias) {                                  \
        vec c[ROWS][VECTORS];                                                                        \
        for (int i = 0; i < ROWS; i++)                                                               \
            for (int j = 0; j < VECTORS; j++) c[i][j] = bias ? load(bias + j * LANES) : all(0);      \
        for (int64_t k = 0; k < K; k++)                                                              \
            for (int i = 0; i < ROWS; i++) {                                                         \
                float a = A[i * sm + k * sk];                                                        \
                for (int j = 0; j < VECTORS; j++) c[i][j] += a * load(B + k * ldb + j * LANES);      \
            }                                                                                        \
        for (int i = 0; i < ROWS; i++)                                                               \
            for (int j = 0; j < VECTORS; j++) store(C + i * ldc + j * LANES, c[i][j]);               \
    }
TILE(6, 2) TILE(5, 2) TILE(4, 2) TILE(3, 2) TILE(2, 2) TILE(1, 2)
TILE(6, 1) TILE(5, 1) TILE(4, 1) TILE(3, 1) TILE(2, 1) TILE(1, 1)

static void matmul(int64_t M, int64_t N, int64_t K, const float *A, int64_t sm, int64_t sk, const float *B,
                   int64_t ldb, float *C, int64_t ldc, const float *bias) {
    int64_t n = 0;
#define ROWS_OF(VECTORS)                                                                             \
    for (int64_t m = 0; m < M; m += 6) {                                                             \
        const float *a = A + m * sm, *b = B + n, *d = bias ? bias + n : 0;                           \
        float *c = C + m * ldc + n;                                                                  \
        switch (MIN(6, M - m)) {                                                                     \
        case 6: tile_6_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d); break;                            \
        case 5: tile_5_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d); break;                            \
        case 4: tile_4_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d); break;                            \
        case 3: tile_3_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d); break;                            \
        case 2: tile_2_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d); break;                            \
        default: tile_1_##VECTORS(K, a, sm, sk, b, ldb, c, ldc, d);                                  \
        }                                                                                            \
    }
    for (; n + 2 * LANES <= N; n += 2 * LANES) ROWS_OF(2)
    for (; n + LANES <= N; n += LANES) ROWS_OF(1)
    for (; n < N; n++) /* columns that fill no vector */
        for (int64_t m = 0; m < M; m++) {
            float s = bias ? bias[n] : 0;
            for (int64_t k = 0; k < K; k++) s += A[m * sm + k * sk] * B[k * ldb + n];
            C[m * ldc + n] = s;
        }
}

/* ---- What engine.py hands in; every field has eight bytes ---- */

enum { ONE_HOT, DENSE, TABULAR };

typedef struct {
    int64_t kind;          /* z = W2 relu(b1 + W1 x) + b2 with x one-hot or dense, or z = table[x . stride] */
    int64_t features, hidden, actions, padded; /* F, H, V, W */
    int64_t rows;          /* of one run's first array: codes, features or joint states */
    int64_t width;         /* parameters of one run, in the order first, bias, last, last_bias */
    const int64_t *sizes;  /* (F) codes of each feature; 0 for dense observations */
    const int64_t *offset; /* (F) ONE_HOT: row of each feature's first code; TABULAR: its stride */
    float *first;          /* (R, rows, H) one-hot, (R, H, F) dense, (R, rows, V) tabular */
    float *bias;           /* (R, H), dense only */
    float *last;           /* (R, V, H), not tabular */
    float *last_bias;      /* (R, V) */
    const float *temperature; /* (R) softmax temperatures; 0: all are 1 */
} Network;

typedef struct {
    int64_t capacity, slots, row_bytes; /* S; entries of the hash table, a power of two; of one observation */
    int64_t merge;         /* 0: every token is a state of its own */
    uint8_t *observed;     /* (R, S, row_bytes) int64 codes or floats */
    int32_t *slot;         /* (R, slots) state of each hash; -1: free */
    int32_t *count;        /* (R) states so far */
    float *log_probs, *probs; /* (R, S, W) of the policy that acts; 0: not wanted */
    float *entropy;        /* (R, S) */
    float *logits;         /* (R, S, W); 0: not wanted */
} States;

typedef struct {
    int64_t capacity;      /* M, the most states that one pass meets */
    int32_t *state;        /* (R, M) which states it met */
    int32_t *met;          /* (R) how many */
    int32_t *local;        /* (R, N) each token's place among them */
    float *hidden;         /* (R, M, H) */
    float *log_probs, *probs; /* (R, M, W) */
    float *entropy;        /* (R, M) */
    int32_t *place;        /* (S) scratch, -1 between calls */
    float *scratch;        /* floats as `scratch_floats` says */
} Pass;

typedef struct {
    float *mean, *square;  /* (R, moments) */
    int64_t moments;       /* floats in one row of them, at least width */
    const float *rate;     /* (R) step sizes */
    double max_norm, decay;
    int64_t steps;         /* this one included */
    uint8_t *alive;        /* (R) 0 for good once a loss or a gradient was not finite */
    float *loss;           /* (R) handed to `backward`; the others write it */
    float *norm;           /* (R) out: l2 norm before clipping, NaN for runs that are not alive */
} Adam;

typedef struct {
    int64_t tokens, stride; /* N; tokens from one run's first to the next run's */
    const int32_t *state;   /* (R, N) with that stride, as the next two */
    const int64_t *action;
    const uint8_t *mask;    /* 1: the token counts */
} Tokens;

typedef struct {
    double clip_low, clip_high, delta;
    double paper_low, paper_high;
    const double *band_low, *band_high; /* (R) */
} Limits;

enum { LOAD, LOAD_BOOL, SPREAD, SUM, ADD, SUB, MUL, DIV, MAXIMUM, MINIMUM, LESS, LESS_EQUAL, EQUAL, CHOOSE, EXP, SIGMOID,
       ABSOLUTE, SIGN };

typedef struct {
    int32_t op, out, a, b, c; /* out = op(a, b, c), numbers of registers; LOAD: a is an input */
    int32_t n, wide;          /* numbers in `out`; SPREAD and SUM: n or wide of them become the other */
    int32_t unused;
} Operation;

typedef struct {
    int64_t operations, width; /* floats in a register, whole vectors */
    const Operation *code;
    float *registers;      /* constants are there already */
    int64_t outputs;
    const int32_t *output; /* registers that are read at the end */
    const int64_t *counts; /* and how many numbers of each */
} Tape;

typedef struct {
    const void *first;
    int64_t stride; /* bytes from one run's numbers to the next run's */
} Input;

EXPORT int64_t layout(int64_t which) {
    const int64_t sizes[] = {sizeof(Network), sizeof(States), sizeof(Pass), sizeof(Adam), sizeof(Tokens), sizeof(Limits), sizeof(Tape)};
    return sizes[which];
}

/* The shared part of a pass's scratch: packed weights and biases, then gradients of M states and of the network. */
typedef struct { float *packed, *packed_first, *bias, *x, *dz, *dh, *sums, *gradient; } Scratch;

static int64_t carve(const Network *n, int64_t M, float *from, Scratch *s) {
    int64_t dense = n->kind == DENSE ? n->features : 0;
    int64_t sizes[] = {n->hidden * n->padded, dense * n->hidden, n->padded, M * dense, M * n->padded,
                       M * n->hidden, 3 * M, n->width};
    float **parts[] = {&s->packed, &s->packed_first, &s->bias, &s->x, &s->dz, &s->dh, &s->sums, &s->gradient};
    int64_t used = 0;
    for (int i = 0; i < 8; i++) {
        *parts[i] = from + used;
        used += (sizes[i] + 15) / 16 * 16;
    }
    return used;
}

EXPORT int64_t scratch_floats(const Network *n, int64_t M) {
    Scratch s;
    return carve(n, M, 0, &s);
}

/* ---- Networks ---- */

/* Run r's weights as the forward pass reads them: last (V, H) to (H, W), first (H, F) to (F, H). */
static void pack(const Network *n, int64_t r, Scratch *s) {
    int64_t V = n->actions, W = n->padded, H = n->hidden, F = n->features;
    if (n->kind == TABULAR) return;
    const float *last = n->last + r * V * H;
    for (int64_t k = 0; k < H; k++) {
        for (int64_t v = 0; v < V; v++) s->packed[k * W + v] = last[v * H + k];
        for (int64_t v = V; v < W; v++) s->packed[k * W + v] = 0;
    }
    memcpy(s->bias, n->last_bias + r * V, V * sizeof(float));
    memset(s->bias + V, 0, (W - V) * sizeof(float));
    if (n->kind == DENSE)
        for (int64_t f = 0; f < F; f++)
            for (int64_t k = 0; k < H; k++) s->packed_first[f * H + k] = n->first[(r * H + k) * F + f];
}

static inline int64_t table_row(const Network *n, const int64_t *x) {
    int64_t row = 0;
    for (int64_t f = 0; f < n->features; f++) row += x[f] * n->offset[f];
    return row;
}

/* Outputs z (m, W) of run r at m states, states[i] or, without a list, i; leaves hidden (m, H) behind.
 *
 * h = relu(b1 + W1 x), z = W2 h + b2. A one-hot x picks rows of W1. */
static void outputs(const Network *n, int64_t r, const uint8_t *observed, int64_t row_bytes, const int32_t *states,
                    int64_t m, const Scratch *s, float *hidden, float *z) {
    int64_t V = n->actions, W = n->padded, H = n->hidden, F = n->features;
    for (int64_t i = 0; i < m; i++) {
        const uint8_t *seen = observed + (states ? states[i] : i) * row_bytes;
        const int64_t *x = (const int64_t *)seen;
        float *h = hidden + i * H;
        if (n->kind == TABULAR) {
            memcpy(z + i * W, n->first + (r * n->rows + table_row(n, x)) * V, V * sizeof(float));
            memset(z + i * W + V, 0, (W - V) * sizeof(float));
        } else if (n->kind == ONE_HOT) {
            const float *table = n->first + r * n->rows * H;
            const float *a = table + (n->offset[0] + x[0]) * H;
            if (F == 1)
                memcpy(h, a, H * sizeof(float));
            else {
                const float *b = table + (n->offset[1] + x[1]) * H;
                for (int64_t k = 0; k < H; k++) h[k] = a[k] + b[k];
            }
            for (int64_t f = 2; f < F; f++) {
                const float *b = table + (n->offset[f] + x[f]) * H;
                for (int64_t k = 0; k < H; k++) h[k] += b[k];
            }
        } else
            memcpy(s->x + i * F, seen, F * sizeof(float));
    }
    if (n->kind == DENSE) matmul(m, H, F, s->x, F, 1, s->packed_first, H, hidden, H, n->bias + r * H);
    if (n->kind != TABULAR) {
        for (int64_t k = 0; k < m * H; k++) hidden[k] = hidden[k] < 0 ? 0 : hidden[k];
        matmul(m, W, H, hidden, H, 1, s->packed, W, z, W, s->bias);
    }
}

/* The logits of run r at m states divided by its temperature. */
static void temper(const Network *n, int64_t r, int64_t m, float *z) {
    for (int64_t k = 0; n->temperature && k < m * n->padded; k++) z[k] /= n->temperature[r];
}

/* log q = z - log sum exp z, q, and the entropy H of a row of V logits; the W - V others read 0.
 *
 * With m = max z, e = exp(z - m) and s the sum of e without that of the largest:
 *     log q = z - m - log1p(s),    H = log1p(s) + sum e (m - z) / (1 + s).
 * Both terms of H are sums of positive numbers, so that its relative error stays at 1e-6 however
 * small it is; -sum q log q loses it to the rounding of log q of the likeliest action. */
static float softmax(int64_t V, int64_t W, const float *z, float *log_probs, float *probs) {
    int64_t likeliest = 0;
    for (int64_t v = 1; v < V; v++)
        if (z[v] > z[likeliest]) likeliest = v;
    float m = z[likeliest];
    for (int64_t v = 0; v < W; v += LANES) store(probs + v, exponential(load(z + v) - m));
    probs[likeliest] = 0 * probs[likeliest]; /* 0, or NaN */
    for (int64_t v = V; v < W; v++) probs[v] = 0;
    vec others = all(0), spread = all(0);
    for (int64_t v = 0; v < W; v += LANES) {
        vec e = load(probs + v);
        others += e;
        spread += e * (m - load(z + v));
    }
    float s = total(others), log_sum = log1pf(s), scale = 1 / (1 + s);
    for (int64_t v = 0; v < W; v += LANES) {
        store(log_probs + v, load(z + v) - m - log_sum);
        store(probs + v, load(probs + v) * scale);
    }
    probs[likeliest] = scale;
    for (int64_t v = V; v < W; v++) log_probs[v] = 0;
    return log_sum + total(spread) * scale;
}

/* ---- Rollouts ---- */

static inline uint64_t hash_of(const uint8_t *x, int64_t bytes) {
    uint64_t h = 0x243F6A8885A308D3ull;
    for (int64_t i = 0; i < bytes; i += 4) {
        uint32_t part;
        memcpy(&part, x + i, 4);
        h = (h ^ part) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 32;
    }
    return h;
}

/* Where the hash table of one run has this observation, or would have it. */
static inline uint64_t find(const States *t, const int32_t *slot, const uint8_t *observed, const uint8_t *x) {
    uint64_t mask = t->slots - 1, at = hash_of(x, t->row_bytes) & mask;
    while (slot[at] >= 0 && memcmp(observed + slot[at] * t->row_bytes, x, t->row_bytes)) at = (at + 1) & mask;
    return at;
}

/* Enter the states of every run into a new hash table. */
EXPORT void rehash(const States *t, int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        int32_t *slot = t->slot + r * t->slots;
        const uint8_t *observed = t->observed + r * t->capacity * t->row_bytes;
        memset(slot, 0xff, t->slots * sizeof(int32_t));
        for (int32_t i = 0; t->merge && i < t->count[r]; i++) slot[find(t, slot, observed, observed + i * t->row_bytes)] = i;
    }
}

/* log pi, pi and H (and logits, if wanted) of states [first, last) of run r, into arrays (R, S, W), (R, S). */
static void evaluate(const Network *n, const States *t, Pass *p, int64_t r, int64_t first, int64_t last,
                     float *log_probs, float *probs, float *entropy, float *logits) {
    Scratch s;
    int64_t W = n->padded;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t a = first; a < last; a += p->capacity) {
        int64_t m = MIN(p->capacity, last - a), at = r * t->capacity + a;
        outputs(n, r, t->observed + at * t->row_bytes, t->row_bytes, 0, m, &s, s.dh, s.dz);
        if (logits) memcpy(logits + at * W, s.dz, m * W * sizeof(float));
        temper(n, r, m, s.dz);
        for (int64_t i = 0; i < m; i++)
            entropy[at + i] = softmax(n->actions, W, s.dz + i * W, log_probs + (at + i) * W, probs + (at + i) * W);
    }
}

/* The states of B observations (C, B, row_bytes) of C runs, state (C, B); new ones are evaluated.
 *
 * Returns 1 where an observation is not in its space, after which nothing has changed for its run. */
EXPORT int64_t see(const Network *n, const States *t, Pass *p, int64_t C, const int64_t *runs, int64_t B,
                   const uint8_t *observations, int32_t *state) {
    for (int64_t c = 0; c < C; c++) {
        int64_t r = runs[c], known = t->count[r], count = known;
        int32_t *slot = t->slot + r * t->slots;
        uint8_t *observed = t->observed + r * t->capacity * t->row_bytes;
        for (int64_t b = 0; b < B; b++) {
            const uint8_t *x = observations + (c * B + b) * t->row_bytes;
            uint64_t at = t->merge ? find(t, slot, observed, x) : 0;
            int32_t found = t->merge ? slot[at] : -1;
            if (found < 0) {
                if (n->sizes)
                    for (int64_t f = 0; f < n->features; f++)
                        if (((const int64_t *)x)[f] < 0 || ((const int64_t *)x)[f] >= n->sizes[f]) return 1;
                found = (int32_t)count++;
                memcpy(observed + found * t->row_bytes, x, t->row_bytes);
                if (t->merge) slot[at] = found;
            }
            state[c * B + b] = found;
        }
        t->count[r] = (int32_t)count;
        if (count > known && t->log_probs) {
            Scratch s;
            carve(n, p->capacity, p->scratch, &s);
            pack(n, r, &s);
            evaluate(n, t, p, r, known, count, t->log_probs, t->probs, t->entropy, t->logits);
        }
    }
    return 0;
}

/* What another set of parameters makes of all states: log pi and pi (R, S, W), H (R, S). */
EXPORT void judge(const Network *n, const States *t, Pass *p, int64_t R, float *log_probs, float *probs, float *entropy) {
    for (int64_t r = 0; r < R; r++) {
        Scratch s;
        carve(n, p->capacity, p->scratch, &s);
        pack(n, r, &s);
        evaluate(n, t, p, r, 0, t->count[r], log_probs, probs, entropy, 0);
    }
}

/* `see`, then actions by inverse CDF: the first a with sum_{b <= a} pi(b) > u sum pi; u (C, B), `stride` floats apart.
 *
 * Out: action (C, B), and each action's log-probability and its state's entropy (C, B). */
EXPORT int64_t act(const Network *n, const States *t, Pass *p, int64_t C, const int64_t *runs, int64_t B,
                   const uint8_t *observations, const float *uniform, int64_t stride, int32_t *state, int64_t *action,
                   float *logp, float *entropy) {
    if (see(n, t, p, C, runs, B, observations, state)) return 1;
    int64_t V = n->actions, W = n->padded;
    for (int64_t i = 0; i < C * B; i++) {
        int64_t at = runs[i / B] * t->capacity + state[i], a = 0;
        const float *probs = t->probs + at * W;
        double sum = 0;
        for (int64_t v = 0; v < V; v++) sum += probs[v];
        float target = uniform[i * stride] * (float)sum;
        double reached = probs[0];
        while (a < V - 1 && !((float)reached > target)) reached += probs[++a];
        action[i] = a;
        logp[i] = t->log_probs[at * W + a];
        entropy[i] = t->entropy[at];
    }
    return 0;
}

/* ---- Updates ---- */

/* The states that run r's unmasked tokens meet, each once: p->state, p->met, and p->local of every token. */
static int64_t gather(Pass *p, const Tokens *k, int64_t r) {
    int32_t *state = p->state + r * p->capacity, *local = p->local + r * k->tokens;
    const int32_t *of = k->state + r * k->stride;
    const uint8_t *mask = k->mask + r * k->stride;
    int32_t met = 0;
    for (int64_t i = 0; i < k->tokens; i++) {
        local[i] = 0;
        if (!mask[i]) continue;
        if (p->place[of[i]] < 0) {
            state[met] = of[i];
            p->place[of[i]] = met++;
        }
        local[i] = p->place[of[i]];
    }
    for (int32_t i = 0; i < met; i++) p->place[state[i]] = -1;
    p->met[r] = met;
    return met;
}

/* What run r makes of its unmasked tokens' states: z (m, W) into s->dz, for networks of any kind. */
static int64_t pass_of(const Network *n, const States *t, Pass *p, const Tokens *k, int64_t r, Scratch *s) {
    int64_t m = gather(p, k, r);
    pack(n, r, s);
    outputs(n, r, t->observed + r * t->capacity * t->row_bytes, t->row_bytes, p->state + r * p->capacity, m, s,
            p->hidden + r * p->capacity * n->hidden, s->dz);
    return m;
}

enum { KL_EXACT, KL_REVERSE, KL_BINARY, KL_HIDDEN, KL_K1, KL_K2, KL_K3, TV, TV_BINARY, TV_HIDDEN, VIOLATION, HIDDEN,
       CLIP_KL_VIOLATION, HIDDEN_CLIP_KL_VIOLATION, OUT_OF_BAND, OUT_OF_PAPER_BAND, ENTROPY_OLD, ENTROPY_NEW, MEASURES };

/* 1 - p of a probability, from its logarithm where p is near 1. */
static inline float complement(float p, float log_p) {
    return p < 0.71f ? 1 - p : -(log_p * log_p * EXP_POLYNOMIAL(log_p) + log_p);
}

/* u - log(1 + u) >= 0, to a relative error of 1e-6. */
static inline float excess(float u) {
    if (u < -0.1f || u > 0.1f) return u - log1pf(u);
    return u * u * (1 / 2.0f - u * (1 / 3.0f - u * (1 / 4.0f - u * (1 / 5.0f - u * (1 / 6.0f - u / 7)))));
}

/* The forward pass of an update: log pi(a) and H of every token, out (2, R, N), 0 where masked.
 *
 * And drift (MEASURES, R), means over unmasked tokens in the order of drift.measure, unless it is 0;
 * p and q are the old and the new distribution of a token's state:
 *     KL = sum p log(p / q),   reverse KL = sum q log(q / p),   TV = 1/2 sum |p - q|,
 *     k1 = -log r,  k2 = (log r)^2 / 2,  k3 = r - 1 - log r  with log r = log q(a) - log p(a) in [-20, 20].
 * With p and q those of the sampled action, the binary KL is a sum of two terms that are not negative,
 *     p log(p / q) + (1 - p) log((1 - p) / (1 - q)) = p k3 + (1 - p) (u - log(1 + u)),  u = (p - q) / (1 - p),
 * and at an edge of the clip, q = p + p c, at least p (c - log(1 + c)): most tokens need no logarithm. */
EXPORT void forward(const Network *n, const States *t, Pass *p, const Tokens *k, const Limits *limits, int64_t R,
                    float *out, float *drift) {
    int64_t W = n->padded, N = k->tokens;
    float low = (float)limits->clip_low, high = (float)limits->clip_high;
    float below = low < 1 ? -low - log1pf(-low) : INFINITY, above = high - log1pf(high); /* k3 at the edges */
    Scratch s;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t r = 0; r < R; r++) {
        int64_t m = pass_of(n, t, p, k, r, &s), base = r * p->capacity;
        float *log_probs = p->log_probs + base * W, *probs = p->probs + base * W, *entropy = p->entropy + base;
        float *kl = s.sums, *reverse = kl + m, *tv = reverse + m; /* of each state */
        temper(n, r, m, s.dz);
        for (int64_t i = 0; i < m; i++)
            entropy[i] = softmax(n->actions, W, s.dz + i * W, log_probs + i * W, probs + i * W);
        if (drift)
            for (int64_t i = 0; i < m; i++) {
                int64_t at = (r * t->capacity + p->state[base + i]) * W;
                vec forwards = all(0), backwards = all(0), change = all(0);
                for (int64_t v = 0; v < W; v += LANES) {
                    vec old = load(t->probs + at + v), new = load(probs + i * W + v);
                    vec gap = load(t->log_probs + at + v) - load(log_probs + i * W + v);
                    forwards += old * gap;
                    backwards -= new * gap;
                    change += positive(old - new);
                }
                kl[i] = total(forwards), reverse[i] = total(backwards), tv[i] = 0.5f * total(change);
            }
        double sum[MEASURES] = {0};
        int64_t counted = 0;
        for (int64_t j = 0; j < N; j++) {
            int64_t i = p->local[r * N + j], at = r * k->stride + j, a = k->action[at];
            float *logp = out + r * N + j, *new_entropy = logp + R * N;
            if (!k->mask[at]) {
                *logp = *new_entropy = 0;
                continue;
            }
            *logp = log_probs[i * W + a];
            *new_entropy = entropy[i];
            if (!drift) continue;
            int64_t old = r * t->capacity + k->state[at];
            float log_p = t->log_probs[old * W + a], before = t->probs[old * W + a], after = probs[i * W + a];
            float gap = *logp - log_p, x = gap < -20 ? -20 : gap > 20 ? 20 : gap, old_entropy = t->entropy[old];
            float ratio = exponential(all(x))[0], k3 = x * x * EXP_POLYNOMIAL(x);
            int near = x >= -0.34f && x <= 0.34f;
            if (!near) k3 = ratio - 1 - x;
            float rho = (*new_entropy + 1e-8f) / (old_entropy + 1e-8f);
            int inside = ratio >= (float)(1 - limits->clip_low) && ratio <= (float)(1 + limits->clip_high);
            float rest = complement(before, log_p), new_rest = complement(after, *logp), change = fabsf(before - after);
            float of_rest = rest > 0 ? rest * excess((new_rest - rest) / rest) : new_rest;
            float binary = (near ? before * k3 : after - before - before * gap) + of_rest;
            int violated = kl[i] > (float)limits->delta, passed = 0;
            if (before * high < rest && kl[i] > before * MAX(below, above)) {
                float at_low = before * below + rest * excess(before * low / rest);
                float at_high = before * above + rest * excess(-before * high / rest);
                passed = kl[i] > MAX(at_low, at_high);
            }
            counted++;
            sum[KL_EXACT] += kl[i], sum[KL_REVERSE] += reverse[i];
            sum[KL_BINARY] += binary, sum[KL_HIDDEN] += binary < kl[i] ? kl[i] - binary : 0;
            sum[KL_K1] -= x, sum[KL_K2] += 0.5f * x * x, sum[KL_K3] += k3;
            sum[TV] += tv[i], sum[TV_BINARY] += change, sum[TV_HIDDEN] += change < tv[i] ? tv[i] - change : 0;
            sum[VIOLATION] += violated, sum[HIDDEN] += violated && inside;
            sum[CLIP_KL_VIOLATION] += passed, sum[HIDDEN_CLIP_KL_VIOLATION] += passed && inside;
            sum[OUT_OF_BAND] += !(rho > (float)(1 - limits->band_low[r]) && rho < (float)(1 + limits->band_high[r]));
            sum[OUT_OF_PAPER_BAND] += !(rho > (float)(1 - limits->paper_low) && rho < (float)(1 + limits->paper_high));
            sum[ENTROPY_OLD] += old_entropy, sum[ENTROPY_NEW] += *new_entropy;
        }
        for (int j = 0; drift && j < MEASURES; j++) drift[j * R + r] = (float)(sum[j] / (counted ? counted : 1));
    }
}

static int finite(float x) { return x - x == 0; }

/* One step of run r for a loss whose gradient by the outputs z at m states is dz (m, W).
 *
 * Backwards through the network, then Adam as erc_bench.training.optimizer has it:
 *     g *= min(1, max_norm / (|g| + 1e-6)),  m += 0.1 (g - m),  v = 0.999 v + 0.001 g^2,
 *     w = w (1 - rate decay) - rate (m / (1 - 0.9^t)) / (sqrt(v / (1 - 0.999^t)) + 1e-8).
 * A run whose loss or gradient is not finite stays as it is, for good. */
static void descend(const Network *n, const States *t, const Pass *p, int64_t r, int64_t m, Scratch *s, const Adam *adam) {
    int64_t V = n->actions, W = n->padded, H = n->hidden, F = n->features;
    int64_t first = n->kind == DENSE ? H * F : n->kind == ONE_HOT ? n->rows * H : n->rows * V;
    int64_t bias = n->kind == DENSE ? H : 0, last = n->kind == TABULAR ? 0 : V * H;
    float *g = s->gradient, *g_bias = g + first, *g_last = g_bias + bias, *g_last_bias = g_last + last, *dz = s->dz;
    const uint8_t *observed = t->observed + r * t->capacity * t->row_bytes;
    const int32_t *state = p->state + r * p->capacity;
    const float *hidden = p->hidden + r * p->capacity * H;
    memset(g, 0, n->width * sizeof(float));
    temper(n, r, m, dz);
    if (n->kind != TABULAR) {
        matmul(V, H, m, dz, 1, W, hidden, H, g_last, H, 0);                /* dW2 = dz^T h */
        for (int64_t i = 0; i < m; i++)
            for (int64_t v = 0; v < V; v++) g_last_bias[v] += dz[i * W + v]; /* db2 = sum dz */
        matmul(m, H, V, dz, W, 1, n->last + r * V * H, H, s->dh, H, 0);    /* dh = dz W2 */
        for (int64_t k = 0; k < m * H; k++) s->dh[k] = hidden[k] > 0 ? s->dh[k] : 0;
    }
    for (int64_t i = 0; i < m; i++) {
        const int64_t *x = (const int64_t *)(observed + state[i] * t->row_bytes);
        const float *dh = s->dh + i * H;
        if (n->kind == TABULAR) {
            float *row = g + table_row(n, x) * V;
            for (int64_t v = 0; v < V; v++) row[v] += dz[i * W + v];
        } else if (n->kind == ONE_HOT) {
            for (int64_t f = 0; f < F; f++) {
                float *row = g + (n->offset[f] + x[f]) * H;
                for (int64_t k = 0; k < H; k++) row[k] += dh[k];
            }
        } else {
            memcpy(s->x + i * F, x, F * sizeof(float));
            for (int64_t k = 0; k < H; k++) g_bias[k] += dh[k];
        }
    }
    if (n->kind == DENSE) matmul(H, F, m, s->dh, 1, H, s->x, F, g, F, 0);  /* dW1 = dh^T x */

    double squares = 0;
    for (int64_t from = 0; from < n->width; from += 1024) {
        int64_t i = from, to = MIN(from + 1024, n->width);
        vec sum = all(0);
        for (; i + LANES <= to; i += LANES) sum += load(g + i) * load(g + i);
        squares += total(sum);
        for (; i < to; i++) squares += g[i] * g[i];
    }
    float norm = (float)sqrt(squares), scale = (float)adam->max_norm / (norm + 1e-6f);
    if (!finite(norm) || !finite(adam->loss[r])) adam->alive[r] = 0;
    adam->norm[r] = adam->alive[r] ? norm : NAN;
    if (!adam->alive[r]) return;
    if (!(scale < 1)) scale = 1;
    float correct = (float)(1 / (1 - pow(0.9, (double)adam->steps))), rate = adam->rate[r];
    float correct_square = (float)(1 / sqrt(1 - pow(0.999, (double)adam->steps)));
    float kept = (float)(1 - (double)rate * adam->decay);
    float *arrays[] = {n->first + r * first, n->bias + r * bias, n->last + r * last, n->last_bias + r * V};
    int64_t sizes[] = {first, bias, last, n->kind == TABULAR ? 0 : V}, at = 0;
    float *mean = adam->mean + r * adam->moments, *square = adam->square + r * adam->moments;
    for (int part = 0; part < 4; at += sizes[part++]) {
        float *restrict w = arrays[part], *restrict m1 = mean + at, *restrict m2 = square + at;
        const float *restrict d = g + at;
        for (int64_t i = 0; i < sizes[part]; i++) {
            float step = d[i] * scale;
            m1[i] += 0.1f * (step - m1[i]);
            m2[i] = 0.999f * m2[i] + 0.001f * step * step;
            w[i] = w[i] * kept - rate * (m1[i] * correct / (sqrtf(m2[i]) * correct_square + 1e-8f));
        }
    }
}

/* The backward pass and the step that follow `forward`, for the gradients of a loss by what it wrote:
 * by log pi(a) and by H, (R, N) each, and by whole distributions log pi, (R, N, V); 0 for what has none.
 *
 * With the logits z of a state, d log pi(a) / dz_v = [v = a] - q_v, dH / dz_v = -q_v (log q_v + H). */
EXPORT void backward(const Network *n, const States *t, Pass *p, const Tokens *k, int64_t R, const float *by_logp,
                     const float *by_entropy, const float *by_whole, const Adam *adam) {
    int64_t V = n->actions, W = n->padded, N = k->tokens;
    Scratch s;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t r = 0; r < R; r++) {
        int64_t m = p->met[r], base = r * p->capacity;
        float *dz = s.dz, *sum = s.sums, *sum_entropy = s.sums + m;
        memset(dz, 0, m * W * sizeof(float));
        memset(s.sums, 0, 2 * m * sizeof(float));
        for (int64_t j = 0; j < N; j++) {
            int64_t i = p->local[r * N + j], at = r * k->stride + j, token = r * N + j;
            if (!k->mask[at]) continue;
            if (by_logp) dz[i * W + k->action[at]] += by_logp[token], sum[i] += by_logp[token];
            if (by_entropy) sum_entropy[i] += by_entropy[token];
            for (int64_t v = 0; by_whole && v < V; v++) {
                dz[i * W + v] += by_whole[token * V + v];
                sum[i] += by_whole[token * V + v];
            }
        }
        for (int64_t i = 0; i < m; i++) {
            float entropy = p->entropy[base + i];
            for (int64_t v = 0; v < W; v += LANES) {
                vec q = load(p->probs + (base + i) * W + v), log_q = load(p->log_probs + (base + i) * W + v);
                store(dz + i * W + v, load(dz + i * W + v) - q * (sum[i] + sum_entropy[i] * (log_q + entropy)));
            }
        }
        descend(n, t, p, r, m, &s, adam);
    }
}

/* One supervised step on -sum_t sum_a wanted_t(a) log pi_t(a) / N', over the N' unmasked tokens; wanted (R, N, V). */
EXPORT void imitate(const Network *n, const States *t, Pass *p, const Tokens *k, int64_t R, const float *wanted,
                    const Adam *adam) {
    int64_t V = n->actions, W = n->padded, N = k->tokens;
    Scratch s;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t r = 0; r < R; r++) {
        int64_t m = pass_of(n, t, p, k, r, &s), base = r * p->capacity, counted = 0;
        float *dz = s.dz, *sum = s.sums, *probs = p->probs + base * W, *log_probs = p->log_probs + base * W;
        for (int64_t i = 0; i < m; i++) softmax(V, W, dz + i * W, log_probs + i * W, probs + i * W);
        memset(dz, 0, m * W * sizeof(float));
        memset(sum, 0, m * sizeof(float));
        for (int64_t j = 0; j < N; j++) counted += k->mask[r * k->stride + j];
        double loss = 0;
        for (int64_t j = 0; j < N; j++) {
            if (!k->mask[r * k->stride + j]) continue;
            int64_t i = p->local[r * N + j];
            for (int64_t v = 0; v < V; v++) {
                float w = wanted[(r * N + j) * V + v] / (float)counted;
                dz[i * W + v] -= w;
                sum[i] += w;
                loss -= w * log_probs[i * W + v];
            }
        }
        for (int64_t i = 0; i < m; i++)
            for (int64_t v = 0; v < V; v++) dz[i * W + v] += probs[i * W + v] * sum[i];
        adam->loss[r] = (float)loss;
        descend(n, t, p, r, m, &s, adam);
    }
}

/* Value heads (V = 1) at every token, out (R, N), 0 where masked. */
EXPORT void values(const Network *n, const States *t, Pass *p, const Tokens *k, int64_t R, float *out) {
    Scratch s;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t r = 0; r < R; r++) {
        pass_of(n, t, p, k, r, &s);
        for (int64_t j = 0; j < k->tokens; j++) {
            int64_t i = p->local[r * k->tokens + j];
            out[r * k->tokens + j] = k->mask[r * k->stride + j] ? s.dz[i * n->padded] : 0;
        }
    }
}

/* One step of value heads on the mean of (value - target)^2 over unmasked tokens; target (R, N), strided as the tokens. */
EXPORT void regress(const Network *n, const States *t, Pass *p, const Tokens *k, int64_t R, const float *target,
                    const Adam *adam) {
    int64_t W = n->padded, N = k->tokens;
    Scratch s;
    carve(n, p->capacity, p->scratch, &s);
    for (int64_t r = 0; r < R; r++) {
        int64_t m = pass_of(n, t, p, k, r, &s), counted = 0;
        float *value = s.sums;
        for (int64_t i = 0; i < m; i++) value[i] = s.dz[i * W];
        memset(s.dz, 0, m * W * sizeof(float));
        for (int64_t j = 0; j < N; j++) counted += k->mask[r * k->stride + j];
        double loss = 0;
        for (int64_t j = 0; j < N; j++) {
            int64_t at = r * k->stride + j, i = p->local[r * N + j];
            if (!k->mask[at]) continue;
            float error = value[i] - target[at];
            s.dz[i * W] += 2 * error / (float)counted;
            loss += error * error / (float)counted;
        }
        adam->loss[r] = (float)loss;
        descend(n, t, p, r, m, &s, adam);
    }
}

/* ---- Objectives: a tape of elementwise operations, recorded by tape.py from torch ---- */

/* For every run, read inputs, do the operations in turn, write outputs: output o of run r is at out[o] + r counts[o].
 *
 * All registers hold floats, truth values as 0 and 1; NaN goes through maxima and minima as torch has it. */
EXPORT void play(const Tape *t, int64_t R, const Input *inputs, float *const *out) {
    for (int64_t r = 0; r < R; r++) {
        for (int64_t k = 0; k < t->operations; k++) {
            Operation op = t->code[k];
            float *o = t->registers + op.out * t->width;
            const float *a = t->registers + op.a * t->width, *b = t->registers + op.b * t->width;
            const float *c = t->registers + op.c * t->width;
            int64_t n = (op.n + LANES - 1) / LANES * LANES;
#define EACH(EXPRESSION)                                                                             \
    _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) o[i] = (EXPRESSION);                        \
    break;
            switch (op.op) {
            case LOAD:
                memcpy(o, (const uint8_t *)inputs[op.a].first + r * inputs[op.a].stride, op.n * sizeof(float));
                break;
            case LOAD_BOOL: {
                const uint8_t *x = (const uint8_t *)inputs[op.a].first + r * inputs[op.a].stride;
                for (int64_t i = 0; i < op.n; i++) o[i] = x[i] != 0;
                break;
            }
            case SPREAD: /* each number over op.wide of its own */
                for (int64_t i = op.n / op.wide - 1; i >= 0; i--)
                    for (int64_t j = 0; j < op.wide; j++) o[i * op.wide + j] = a[i];
                break;
            case SUM: /* op.wide neighbours at a time */
                for (int64_t i = 0; i < op.n; i++) {
                    const float *x = a + i * op.wide;
                    vec s = all(0);
                    int64_t j = 0;
                    for (; j + LANES <= op.wide; j += LANES) s += load(x + j);
                    float sum = total(s);
                    for (; j < op.wide; j++) sum += x[j];
                    o[i] = sum;
                }
                break;
            case ADD: EACH(a[i] + b[i])
            case SUB: EACH(a[i] - b[i])
            case MUL: EACH(a[i] * b[i])
            case DIV: EACH(a[i] / b[i])
            case MAXIMUM: EACH(a[i] > b[i] || a[i] != a[i] ? a[i] : b[i])
            case MINIMUM: EACH(a[i] < b[i] || a[i] != a[i] ? a[i] : b[i])
            case LESS: EACH(a[i] < b[i] ? 1.0f : 0.0f)
            case LESS_EQUAL: EACH(a[i] <= b[i] ? 1.0f : 0.0f)
            case EQUAL: EACH(a[i] == b[i] ? 1.0f : 0.0f)
            case CHOOSE: EACH(a[i] != 0 ? b[i] : c[i])
            case ABSOLUTE: EACH(fabsf(a[i]))
            case SIGN: EACH(a[i] > 0 ? 1.0f : a[i] < 0 ? -1.0f : a[i])
            case EXP:
                for (int64_t i = 0; i < n; i += LANES) store(o + i, exponential(load(a + i)));
                break;
            case SIGMOID:
                for (int64_t i = 0; i < n; i += LANES) store(o + i, 1.0f / (1.0f + exponential(-load(a + i))));
                break;
            }
        }
        for (int64_t k = 0; k < t->outputs; k++) {
            int64_t count = t->counts[k];
            memcpy(out[k] + r * count, t->registers + t->output[k] * t->width, count * sizeof(float));
        }
    }
}
