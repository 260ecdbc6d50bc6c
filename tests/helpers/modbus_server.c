/* A Modbus TCP device that is not ours: Debian's libmodbus answers, this file only watches.
 *
 * It logs every request with CLOCK_MONOTONIC nanoseconds, can put a value into the very reply
 * that is about to leave ("arm"), and says when a coil was written. Standard output carries one
 * line per event, standard input one command per line; its end ends the server.
 *
 * Log lines:   open NS CONN | close NS CONN | r NS CONN FC ADDRESS COUNT REPLY_NS
 *              w NS CONN FC ADDRESS COUNT OLD:NEW...
 * Commands:    hr|ir|c|di ADDRESS VALUE...        set
 *              f32 hr|ir ADDRESS VALUE            set a float32, ABCD
 *              ramp hr|ir ADDRESS FROM TO MS      a float32 that moves from now on
 *              count hr|ir ADDRESS COUNT          cells that go up by one after each reading of them
 *              link COIL DI DELAY_MS INVERT       the input follows the coil (an auxiliary contact)
 *              arm ID hr|ir ADDRESS VALUE COIL TRIP   -> "sent ID NS", then "trip ID NS"
 *              cycle N hr|ir ADDRESS LOW HIGH COIL TRIP PAUSE_US   N arms, each after a return
 *                                                 -> "reaction SENT_NS TRIP_NS DUE_NS" xN, "cycle end"
 *              watch COIL                         -> "coil ADDRESS VALUE NS" at every write
 *              get hr|ir|c|di ADDRESS COUNT       -> "got V V V"
 *              only UNIT...                       other units are not answered
 *              window hr|ir FIRST LAST            reads of that table beyond its windows are refused
 *              longest COUNT                      reads of more registers are refused
 *              sync TOKEN                         -> "sync TOKEN", the log is on disk
 *              reset                              all zero, nothing armed
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CELLS 65536
#define CONNECTIONS_MAX 1024
#define LINKS_MAX 64
#define RAMPS_MAX 16
#define WINDOWS_MAX 16
#define LINE_MAX_BYTES 65536

struct ramp {
    uint16_t *cells;
    int address;
    float from, to;
    int64_t start_ns, length_ns;
};

struct link {
    int coil, input, invert;
    int64_t delay_ns;
    int64_t due_ns; /* 0: nothing under way */
};

enum arm_state { IDLE, WAIT_READ, WAIT_TRIP, WAIT_RETURN, PAUSE };

struct arm {
    enum arm_state state;
    char id[64];
    uint16_t *cells;
    int address, coil, trip;
    float low, high;
    int64_t left; /* cycles still to do; 0: a single arm */
    int64_t pause_ns, sent_ns, due_ns;
    bool cycling;
};

static modbus_t *context;
static modbus_mapping_t *map;
static FILE *request_log;
static bool log_reads = true;
static int64_t connection_of[CONNECTIONS_MAX]; /* by descriptor */
static int64_t connections;
static struct ramp ramps[RAMPS_MAX];
static int ramp_count;
static uint16_t *counted; /* the area of the cells that count their readings */
static int counted_from, counted_to;
static struct link links[LINKS_MAX];
static int link_count;
static struct arm arm;
static bool some_units, unit_there[256]; /* false: every unit answers */
static struct window {
    uint16_t *cells;
    int first, last;
} windows[WINDOWS_MAX];
static int window_count;
static int longest = MODBUS_MAX_READ_REGISTERS;
static bool watched[CELLS];
static uint64_t random_state = 88172645463325252u;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void die(const char *what)
{
    fprintf(stderr, "modbus_server: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* High word first. (What libmodbus calls "abcd" differs between its versions.) */
static void put_float(uint16_t *cells, int address, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    cells[address] = (uint16_t)(bits >> 16);
    cells[address + 1] = (uint16_t)bits;
}

/* ---- what moves by itself -------------------------------------------------------------- */

static void move_ramps(int64_t now)
{
    for (int i = 0; i < ramp_count; i++) {
        struct ramp *r = &ramps[i];
        double part = r->length_ns ? (double)(now - r->start_ns) / (double)r->length_ns : 1.0;
        if (part > 1.0)
            part = 1.0;
        put_float(r->cells, r->address, r->from + (float)part * (r->to - r->from));
    }
}

static void move_links(int64_t now)
{
    for (int i = 0; i < link_count; i++) {
        struct link *l = &links[i];
        if (l->due_ns && now >= l->due_ns) {
            map->tab_input_bits[l->input] = (uint8_t)(map->tab_bits[l->coil] ^ l->invert);
            l->due_ns = 0;
        }
    }
}

static void start_links(int coil, int64_t now)
{
    for (int i = 0; i < link_count; i++)
        if (links[i].coil == coil)
            links[i].due_ns = now + links[i].delay_ns;
    move_links(now);
}

/* ---- the armed value ------------------------------------------------------------------- */

static void arm_next(int64_t now)
{
    if (arm.left == 0) {
        arm.state = IDLE;
        printf("cycle end\n");
        fflush(stdout);
        return;
    }
    arm.left--;
    arm.state = PAUSE;
    arm.due_ns = now + (arm.pause_ns ? (int64_t)(next_random() % (uint64_t)arm.pause_ns) : 0);
}

static void arm_coil_written(int64_t now)
{
    bool tripped = map->tab_bits[arm.coil] == arm.trip;
    if (arm.state == WAIT_TRIP && tripped) {
        if (arm.cycling)
            printf("reaction %" PRId64 " %" PRId64 " %" PRId64 "\n", arm.sent_ns, now, arm.due_ns);
        else
            printf("trip %s %" PRId64 "\n", arm.id, now);
        fflush(stdout);
        arm.state = arm.cycling ? WAIT_RETURN : IDLE;
        if (arm.cycling)
            put_float(arm.cells, arm.address, arm.low);
    } else if (arm.state == WAIT_RETURN && !tripped) {
        arm_next(now);
    }
}

/* A read that covers the armed cells takes the value with it. */
static bool arm_read(uint16_t *cells, int address, int count, int64_t now)
{
    if (arm.state == PAUSE && now >= arm.due_ns)
        arm.state = WAIT_READ;
    if (arm.state != WAIT_READ || cells != arm.cells)
        return false;
    if (address > arm.address || arm.address + 2 > address + count)
        return false;
    put_float(arm.cells, arm.address, arm.high);
    arm.state = WAIT_TRIP;
    return true;
}

/* Every reading of a counting cell is another value: one that is lost leaves a hole. */
static void count_read(uint16_t *cells, int address, int count)
{
    if (cells == NULL || cells != counted)
        return;
    for (int i = address; i < address + count; i++)
        if (i >= counted_from && i < counted_to)
            cells[i]++;
}

/* ---- requests -------------------------------------------------------------------------- */

static int word_at(const uint8_t *bytes)
{
    return bytes[0] << 8 | bytes[1];
}

/* Whether a device with such a table, or such a limit, refuses this read. */
static bool refused(const uint16_t *cells, int address, int count)
{
    bool bounded = false;
    if (cells == NULL)
        return false;
    for (int i = 0; i < window_count; i++) {
        if (windows[i].cells != cells)
            continue;
        bounded = true;
        if (address >= windows[i].first && address + count - 1 <= windows[i].last)
            return count > longest;
    }
    return bounded || count > longest;
}

static void answer_read(int fd, const uint8_t *query, int length, int64_t now)
{
    const uint8_t *pdu = query + modbus_get_header_length(context);
    int address = word_at(pdu + 1), count = word_at(pdu + 3);
    uint16_t *cells = NULL;
    bool carries;

    if (pdu[0] == MODBUS_FC_READ_HOLDING_REGISTERS)
        cells = map->tab_registers;
    else if (pdu[0] == MODBUS_FC_READ_INPUT_REGISTERS)
        cells = map->tab_input_registers;
    move_ramps(now);
    move_links(now);
    if (refused(cells, address, count)) {
        modbus_reply_exception(context, query, MODBUS_EXCEPTION_ILLEGAL_DATA_ADDRESS);
        if (request_log && log_reads)
            fprintf(request_log, "r %" PRId64 " %" PRId64 " %d %d %d %" PRId64 "\n", now,
                    connection_of[fd], pdu[0], address, count, now);
        return;
    }
    carries = cells != NULL && arm_read(cells, address, count, now);
    int64_t reply_ns = now_ns();
    if (carries)
        arm.sent_ns = reply_ns;
    modbus_reply(context, query, length, map);
    count_read(cells, address, count);
    if (carries && !arm.cycling) {
        printf("sent %s %" PRId64 "\n", arm.id, reply_ns);
        fflush(stdout);
    }
    if (request_log && log_reads)
        fprintf(request_log, "r %" PRId64 " %" PRId64 " %d %d %d %" PRId64 "\n", now,
                connection_of[fd], pdu[0], address, count, reply_ns);
}

static void answer_write(int fd, const uint8_t *query, int length, int64_t now)
{
    const uint8_t *pdu = query + modbus_get_header_length(context);
    int fc = pdu[0], address = word_at(pdu + 1);
    bool coil = fc == MODBUS_FC_WRITE_SINGLE_COIL || fc == MODBUS_FC_WRITE_MULTIPLE_COILS;
    bool one = fc == MODBUS_FC_WRITE_SINGLE_COIL || fc == MODBUS_FC_WRITE_SINGLE_REGISTER;
    int count = one ? 1 : word_at(pdu + 3);
    int old[2048] = {0};

    if (count > 2048 || address + count > CELLS)
        count = 0; /* libmodbus refuses it */
    for (int i = 0; i < count; i++)
        old[i] = coil ? map->tab_bits[address + i] : map->tab_registers[address + i];
    modbus_reply(context, query, length, map);
    if (request_log) {
        fprintf(request_log, "w %" PRId64 " %" PRId64 " %d %d %d", now, connection_of[fd], fc,
                address, count);
        for (int i = 0; i < count; i++)
            fprintf(request_log, " %d:%d", old[i],
                    coil ? map->tab_bits[address + i] : map->tab_registers[address + i]);
        fputc('\n', request_log);
    }
    if (!coil)
        return;
    for (int i = 0; i < count; i++) {
        start_links(address + i, now);
        if (watched[address + i]) {
            printf("coil %d %d %" PRId64 "\n", address + i, map->tab_bits[address + i], now);
            fflush(stdout);
        }
        if (address + i == arm.coil)
            arm_coil_written(now);
    }
}

static void drop(int fd)
{
    if (request_log)
        fprintf(request_log, "close %" PRId64 " %" PRId64 "\n", now_ns(), connection_of[fd]);
    close(fd);
}

static void serve(int fd)
{
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_set_socket(context, fd);
    int length = modbus_receive(context, query);
    int64_t now = now_ns();
    if (length == -1) {
        drop(fd);
    } else if (length > 0) {
        uint8_t fc = query[modbus_get_header_length(context)];
        if (some_units && !unit_there[query[modbus_get_header_length(context) - 1]])
            return;
        if (fc >= MODBUS_FC_READ_COILS && fc <= MODBUS_FC_READ_INPUT_REGISTERS)
            answer_read(fd, query, length, now);
        else if (fc == MODBUS_FC_WRITE_SINGLE_COIL || fc == MODBUS_FC_WRITE_SINGLE_REGISTER ||
                 fc == MODBUS_FC_WRITE_MULTIPLE_COILS || fc == MODBUS_FC_WRITE_MULTIPLE_REGISTERS)
            answer_write(fd, query, length, now);
        else
            modbus_reply(context, query, length, map);
    }
}

/* ---- commands -------------------------------------------------------------------------- */

static uint16_t *registers_of(const char *area)
{
    return strcmp(area, "ir") == 0 ? map->tab_input_registers : map->tab_registers;
}

static void set_cells(const char *area, int address, char *values)
{
    for (char *v = strtok(values, " "); v && address < CELLS; v = strtok(NULL, " "), address++) {
        long value = strtol(v, NULL, 0);
        if (strcmp(area, "c") == 0) {
            map->tab_bits[address] = value != 0;
            start_links(address, now_ns());
        } else if (strcmp(area, "di") == 0)
            map->tab_input_bits[address] = value != 0;
        else
            registers_of(area)[address] = (uint16_t)value;
    }
}

static void print_cells(const char *area, int address, int count)
{
    printf("got");
    for (int i = address; i < address + count && i < CELLS; i++) {
        if (strcmp(area, "c") == 0)
            printf(" %d", map->tab_bits[i]);
        else if (strcmp(area, "di") == 0)
            printf(" %d", map->tab_input_bits[i]);
        else
            printf(" %d", registers_of(area)[i]);
    }
    printf("\n");
}

static void reset_all(void)
{
    memset(map->tab_bits, 0, CELLS);
    memset(map->tab_input_bits, 0, CELLS);
    memset(map->tab_registers, 0, CELLS * sizeof(uint16_t));
    memset(map->tab_input_registers, 0, CELLS * sizeof(uint16_t));
    memset(watched, 0, sizeof watched);
    memset(&arm, 0, sizeof arm);
    ramp_count = link_count = 0;
}

static bool add_ramp(const char *line)
{
    char area[8];
    double ms;
    struct ramp r = {0};
    if (sscanf(line, "ramp %7s %d %f %f %lf", area, &r.address, &r.from, &r.to, &ms) != 5)
        return false;
    r.cells = registers_of(area);
    r.start_ns = now_ns();
    r.length_ns = (int64_t)(ms * 1e6);
    for (int i = 0; i < ramp_count; i++) {
        if (ramps[i].cells == r.cells && ramps[i].address == r.address) {
            ramps[i] = r;
            return true;
        }
    }
    if (ramp_count == RAMPS_MAX)
        return false;
    ramps[ramp_count++] = r;
    return true;
}

static void remove_ramp(uint16_t *cells, int address)
{
    for (int i = 0; i < ramp_count; i++)
        if (ramps[i].cells == cells && ramps[i].address == address)
            ramps[i--] = ramps[--ramp_count];
}

static bool add_link(const char *line)
{
    struct link l = {0};
    double ms;
    if (link_count == LINKS_MAX ||
        sscanf(line, "link %d %d %lf %d", &l.coil, &l.input, &ms, &l.invert) != 4)
        return false;
    l.delay_ns = (int64_t)(ms * 1e6);
    links[link_count++] = l;
    map->tab_input_bits[l.input] = (uint8_t)(map->tab_bits[l.coil] ^ l.invert);
    return true;
}

static bool set_arm(const char *line)
{
    char area[8];
    double pause_us = 0;
    struct arm a = {0};
    if (sscanf(line, "arm %63s %7s %d %f %d %d", a.id, area, &a.address, &a.high, &a.coil,
               &a.trip) == 6) {
        a.state = WAIT_READ;
    } else if (sscanf(line, "cycle %" PRId64 " %7s %d %f %f %d %d %lf", &a.left, area, &a.address,
                      &a.low, &a.high, &a.coil, &a.trip, &pause_us) == 8) {
        a.cycling = true;
        a.pause_ns = (int64_t)(pause_us * 1e3);
    } else {
        return false;
    }
    a.cells = registers_of(area);
    arm = a;
    remove_ramp(a.cells, a.address);
    if (a.cycling) {
        put_float(a.cells, a.address, a.low);
        arm_next(now_ns());
    }
    return true;
}

static void set_units(char *values)
{
    some_units = true;
    for (char *v = strtok(values, " "); v; v = strtok(NULL, " "))
        unit_there[strtol(v, NULL, 0) & 0xff] = true;
}

static bool add_window(const char *line)
{
    char area[8];
    struct window w = {0};
    if (window_count == WINDOWS_MAX ||
        sscanf(line, "window %7s %d %d", area, &w.first, &w.last) != 3)
        return false;
    w.cells = registers_of(area);
    windows[window_count++] = w;
    return true;
}

static bool command(char *line)
{
    char area[8], token[128];
    int address, count, consumed = 0;
    float value;

    if (sscanf(line, "f32 %7s %d %f", area, &address, &value) == 3) {
        remove_ramp(registers_of(area), address);
        put_float(registers_of(area), address, value);
    } else if (sscanf(line, "sync %127s", token) == 1) {
        if (request_log)
            fflush(request_log);
        printf("sync %s\n", token);
    } else if (sscanf(line, "get %7s %d %d", area, &address, &count) == 3) {
        move_ramps(now_ns());
        move_links(now_ns());
        print_cells(area, address, count);
    } else if (sscanf(line, "count %7s %d %d", area, &address, &count) == 3) {
        counted = registers_of(area);
        counted_from = address;
        counted_to = address + count < CELLS ? address + count : CELLS;
    } else if (sscanf(line, "watch %d", &address) == 1 && address < CELLS) {
        watched[address] = true;
    } else if (strncmp(line, "only ", 5) == 0) {
        set_units(line + 5);
    } else if (strncmp(line, "window ", 7) == 0) {
        return add_window(line);
    } else if (sscanf(line, "longest %d", &count) == 1) {
        longest = count;
    } else if (strcmp(line, "reset") == 0) {
        reset_all();
    } else if (strncmp(line, "ramp ", 5) == 0) {
        return add_ramp(line);
    } else if (strncmp(line, "link ", 5) == 0) {
        return add_link(line);
    } else if (strncmp(line, "arm ", 4) == 0 || strncmp(line, "cycle ", 6) == 0) {
        return set_arm(line);
    } else if (sscanf(line, "%7s %d %n", area, &address, &consumed) == 2 && consumed) {
        set_cells(area, address, line + consumed);
    } else {
        return false;
    }
    return true;
}

/* Returns false when standard input has ended. */
static bool read_commands(void)
{
    static char buffer[LINE_MAX_BYTES];
    static size_t have;
    ssize_t got = read(STDIN_FILENO, buffer + have, sizeof buffer - have - 1);
    if (got <= 0)
        return got < 0 && errno == EINTR;
    have += (size_t)got;
    buffer[have] = 0;
    char *line = buffer, *end;
    while ((end = strchr(line, '\n')) != NULL) {
        *end = 0;
        if (*line && !command(line)) {
            printf("error %s\n", line);
        }
        fflush(stdout);
        line = end + 1;
    }
    have -= (size_t)(line - buffer);
    memmove(buffer, line, have);
    if (have == sizeof buffer - 1)
        die("command too long");
    return true;
}

/* ---- the loop -------------------------------------------------------------------------- */

static void add(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll_ctl");
}

static void accept_one(int poller, int listener)
{
    int one = 1;
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    if (fd >= CONNECTIONS_MAX) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection_of[fd] = ++connections;
    if (request_log)
        fprintf(request_log, "open %" PRId64 " %" PRId64 "\n", now_ns(), connection_of[fd]);
    add(poller, fd);
}

static void loop(int poller, int listener)
{
    struct epoll_event events[64];
    bool dirty = false;
    for (;;) {
        int n = epoll_wait(poller, events, 64, dirty ? 0 : -1);
        if (n == 0 && request_log)
            fflush(request_log);
        dirty = n > 0;
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_one(poller, listener);
            else if (fd != STDIN_FILENO)
                serve(fd);
            else if (!read_commands())
                return;
        }
    }
}

static void be_realtime(int priority)
{
    struct sched_param param = {.sched_priority = priority};
    if (sched_setscheduler(0, SCHED_FIFO, &param) < 0 || mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        fprintf(stderr, "modbus_server: not real time: %s\n", strerror(errno));
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'}, {"log", required_argument, NULL, 'l'},
        {"fifo", required_argument, NULL, 'f'}, {"no-reads", no_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'}, {NULL, 0, NULL, 0},
    };
    int port = 0, fifo = 0, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'f': fifo = atoi(optarg); break;
        case 'n': log_reads = false; break;
        case 's': random_state ^= strtoull(optarg, NULL, 0) * 2654435761u; break;
        case 'l':
            if ((request_log = fopen(optarg, "w")) == NULL)
                die(optarg);
            setvbuf(request_log, NULL, _IOFBF, 1 << 20);
            break;
        default: return 2;
        }
    }
    context = modbus_new_tcp("127.0.0.1", port);
    map = modbus_mapping_new(CELLS, CELLS, CELLS, CELLS);
    if (context == NULL || map == NULL)
        die("libmodbus");
    modbus_set_indication_timeout(context, 1, 0);
    int listener = modbus_tcp_listen(context, 64);
    if (listener < 0)
        die("listen");
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    if (fifo)
        be_realtime(fifo);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    add(poller, listener);
    add(poller, STDIN_FILENO);
    loop(poller, listener);
    if (request_log)
        fclose(request_log);
    return 0;
}
