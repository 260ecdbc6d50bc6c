/* A C interpreter of the guard's program, written for speed alone: what evaluation could cost.
 *
 * The same instructions over the same image with the same results; no checks of indices, no seals
 * over what nodes remember. Truth is two bits, as false and as true where it is not known.
 */

#include <math.h>
#include <stdint.h>

enum { CONST = 1, TAG, ADD, SUB, MUL, DIV, NEG, ABS, MIN, MAX };
enum { FALSE_ = 30, TRUE_, BOOL_, LT, LE, GT, GE, EQ, NE, NOT, AND, OR, MOON, UNTIL, FOR };
enum { VOTE = 80 };

struct instruction {
    uint16_t op, dst, a, b;
    double imm;
};
struct slot {
    uint64_t lock;
    double value;
    int64_t mono_ns, utc_ns, source_utc_ns;
    uint8_t quality, reason;
    uint16_t flags;
    uint32_t owner;
    uint8_t pad[16];
};
struct tag {
    uint64_t key;
    double low, high;
    int64_t stale_after_ns;
    uint8_t pad[32];
};
struct node {
    int64_t low, high;
};
struct reg {
    double value;
    uint8_t low, high, bad;
    uint16_t t, u;
};

static uint8_t elapsed(int running, int64_t *since, int64_t duration, int64_t now)
{
    if (!running) {
        *since = 0;
        return 0;
    }
    if (*since == 0)
        *since = now;
    return now - *since >= duration;
}

void interpret(const struct instruction *code, uint32_t count, const struct slot *image,
               const struct tag *tags, const int64_t *durations, struct node *nodes,
               struct reg *regs, int64_t now)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct instruction *c = &code[i];
        const struct reg *a = &regs[c->a], *b = &regs[c->b];
        struct reg *r = &regs[i];
        switch (c->op) {
        case CONST: r->value = c->imm; r->bad = 0; break;
        case TAG: {
            const struct slot *s = &image[c->a];
            r->value = s->value;
            r->bad = s->quality != 2 || (tags[c->a].stale_after_ns &&
                                         now - s->mono_ns > tags[c->a].stale_after_ns);
            break;
        }
        case ADD: r->value = a->value + b->value; r->bad = a->bad | b->bad; break;
        case SUB: r->value = a->value - b->value; r->bad = a->bad | b->bad; break;
        case MUL: r->value = a->value * b->value; r->bad = a->bad | b->bad; break;
        case MIN: r->value = a->value <= b->value ? a->value : b->value;
            r->bad = a->bad | b->bad; break;
        case MAX: r->value = a->value >= b->value ? a->value : b->value;
            r->bad = a->bad | b->bad; break;
        case LT: case LE: case GT: case GE: {
            uint8_t x = c->op == LT ? a->value < b->value : c->op == LE ? a->value <= b->value
                      : c->op == GT ? a->value > b->value : a->value >= b->value;
            uint8_t bad = a->bad | b->bad;
            r->low = bad ? 0 : x;
            r->high = bad ? 1 : x;
            break;
        }
        case NOT: r->low = !a->high; r->high = !a->low; break;
        case AND: r->low = a->low & b->low; r->high = a->high & b->high; break;
        case OR: r->low = a->low | b->low; r->high = a->high | b->high; break;
        case VOTE: {
            uint16_t t = c->a == 0xFFFF ? 0 : a->t, u = c->a == 0xFFFF ? 0 : a->u;
            r->t = t + (b->low & b->high);
            r->u = u + (b->low ^ b->high);
            break;
        }
        case MOON: r->low = a->t >= c->b; r->high = a->t + a->u >= c->b; break;
        case UNTIL: {
            struct node *n = &nodes[(uint32_t)c->imm];
            uint8_t low = a->low | ((uint8_t)n->low & !b->high);
            uint8_t high = a->high | ((uint8_t)n->high & !b->low);
            n->low = low;
            n->high = high;
            r->low = low;
            r->high = high;
            break;
        }
        case FOR: {
            uint32_t k = (uint32_t)c->imm;
            r->low = elapsed(a->low, &nodes[k].low, durations[k], now);
            r->high = elapsed(a->high, &nodes[k].high, durations[k], now) | r->low;
            break;
        }
        }
    }
}
