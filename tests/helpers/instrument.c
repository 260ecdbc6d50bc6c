/* Serial instruments on a pty, written from their manuals alone: nothing of the gateway is in here.
 *
 *   instrument KIND LINK PERIOD_US [SEED]
 *
 * KIND: wind (NMEA 0183 MWV), scale (ASCII weighing), logger (4-20 mA, AA 55 frames with CRC) send
 * every PERIOD_US; gas answers "#01" + sum to each of its stations 01 to 04. LINK becomes the name
 * of the tty. Prints "ready"; standard input carries one command per line, each is answered by
 * "ok"; its end ends the program.
 *   set N VALUE     value N (gas: 2 x station, the gas; the next, its temperature)
 *   cycle 0|1       values that move: the second is always twice the first plus one
 *   word TEXT       the status it sends
 *   unit TEXT       the unit it sends
 *   silent | talk   sends and answers nothing; again
 *   unplug | plug   the tty is gone; a new one
 *   errors PPM      each byte that it sends is replaced by another with this likelihood
 *   heard PPM       each byte that it receives, likewise
 *   late US         answers come so much later
 *   echo 0|1        what it hears comes back first, as adapters on two wires do
 *   mute N          station N is dead (0: none)
 *   raw HEX         these bytes at once
 *   count           -> "count FRAMES_SENT BYTES_DAMAGED REQUESTS"
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const char *kind, *link_name;
static int master = -1, slave = -1;
static double values[16];
static char word_text[16] = "", unit_text[16] = "";
static int cycling, silent, echoing, mute;
static unsigned errors_ppm, heard_ppm, late_us, step;
static unsigned long sent, damaged, asked;
static uint64_t state = 88172645463325252u;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 11) % n);
}

static void damage(uint8_t *bytes, size_t length, unsigned ppm)
{
    for (size_t i = 0; i < length; i++) {
        if (below(1000000) < ppm) {
            bytes[i] ^= (uint8_t)(1 + below(255));
            damaged++;
        }
    }
}

static void put(const void *bytes, size_t length)
{
    uint8_t copy[512];
    memcpy(copy, bytes, length);
    damage(copy, length, errors_ppm);
    if (master >= 0 && write(master, copy, length) < 0 && errno != EAGAIN)
        exit(1);
}

static void plug(void)
{
    struct termios raw;
    master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
        exit(1);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    unlink(link_name);
    if (symlink(ptsname(master), link_name) < 0)
        exit(1);
}

static void unplug(void)
{
    unlink(link_name);
    close(slave);
    close(master);
    master = slave = -1;
}

static uint16_t crc_modbus(const uint8_t *bytes, size_t length)
{
    uint16_t crc = 0xFFFF;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (uint16_t)((crc >> 1) ^ 0xA001) : (uint16_t)(crc >> 1);
    }
    return crc;
}

static const char *or_else(const char *given, const char *usual)
{
    return *given ? given : usual;
}

static void send_wind(double angle, double speed)
{
    char body[96], line[112];
    unsigned sum = 0;
    snprintf(body, sizeof body, "WIMWV,%.1f,R,%.1f,%s,%s", angle, speed,
             or_else(unit_text, "M"), or_else(word_text, "A"));
    for (char *c = body; *c; c++)
        sum ^= (unsigned char)*c;
    put(line, (size_t)snprintf(line, sizeof line, "$%s*%02X\r\n", body, sum));
}

static void send_scale(double gross, double net)
{
    char line[96];
    const char *word = or_else(word_text, "ST"), *unit = or_else(unit_text, "kg");
    put(line, (size_t)snprintf(line, sizeof line, "%s,GS,%+09.2f%s\r\n", word, gross, unit));
    put(line, (size_t)snprintf(line, sizeof line, "%s,NT,%c%8.2f%s\r\n", word, net < 0 ? '-' : '+',
                               net < 0 ? -net : net, unit));
}

static void send_logger(double first, double second)
{
    uint8_t frame[14] = {0xAA, 0x55, sizeof frame, (uint8_t)strtoul(or_else(word_text, "0"), 0, 16)};
    uint16_t raw[4] = {(uint16_t)first, (uint16_t)second, 0xAA55, 20000};
    for (int i = 0; i < 4; i++) {
        frame[4 + 2 * i] = (uint8_t)(raw[i] >> 8);
        frame[5 + 2 * i] = (uint8_t)raw[i];
    }
    uint16_t crc = crc_modbus(frame, 12);
    frame[12] = (uint8_t)crc;
    frame[13] = (uint8_t)(crc >> 8);
    put(frame, sizeof frame);
}

static void answer_gas(char *request)
{
    unsigned station, told, sum = 0;
    char body[96], line[112];
    asked++;
    if (sscanf(request, "#%2u%2X", &station, &told) != 2 || strlen(request) != 5 || station > 4)
        return;
    for (int i = 0; i < 3; i++)
        sum += (unsigned char)request[i];
    if ((sum & 0xFF) != told || silent || (int)station == mute)
        return;
    double gas = values[2 * station], temperature = values[2 * station + 1];
    if (cycling) {
        gas = step++ % 400 + 1000 * station;
        temperature = 2 * gas + 1;
    }
    snprintf(body, sizeof body, ">%02u,%.2f,%.1f,%s", station, gas, temperature,
             or_else(word_text, "OK"));
    sum = 0;
    for (char *c = body; *c; c++)
        sum += (unsigned char)*c;
    if (late_us)
        usleep(late_us);
    put(line, (size_t)snprintf(line, sizeof line, "%s%02X\r", body, sum & 0xFF));
    sent++;
}

static void listen_gas(void)
{
    static char request[64];
    static size_t length;
    uint8_t bytes[256];
    ssize_t count = read(master, bytes, sizeof bytes);
    if (count <= 0)
        return;
    if (echoing)
        put(bytes, (size_t)count);
    damage(bytes, (size_t)count, heard_ppm);
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] == '\r') {
            request[length] = 0;
            answer_gas(request);
            length = 0;
        } else if (length < sizeof request - 1) {
            request[length++] = (char)bytes[i];
        }
    }
}

static void tell(void)
{
    double first = values[0], second = values[1];
    if (silent || master < 0)
        return;
    if (cycling) {
        first = step++ % 400;
        second = 2 * first + 1;
    }
    if (strcmp(kind, "wind") == 0)
        send_wind(first, second);
    else if (strcmp(kind, "scale") == 0)
        send_scale(first, second);
    else
        send_logger(first, second);
    sent++;
}

static void raw(const char *hex)
{
    uint8_t bytes[256];
    size_t length = 0;
    for (; hex[0] && hex[1] && length < sizeof bytes; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        bytes[length++] = (uint8_t)strtoul(pair, 0, 16);
    }
    put(bytes, length);
}

static void command(char *line)
{
    char hex[600];
    int number;
    double value;
    if (sscanf(line, "set %d %lf", &number, &value) == 2 && number >= 0 && number < 16)
        values[number] = value;
    else if (strcmp(line, "silent") == 0 || strcmp(line, "talk") == 0)
        silent = *line == 's';
    else if (strcmp(line, "unplug") == 0)
        unplug();
    else if (strcmp(line, "plug") == 0)
        plug();
    else if (strcmp(line, "word") == 0 || sscanf(line, "word %15s", word_text) == 1)
        word_text[strcmp(line, "word") == 0 ? 0 : 15] = 0;
    else if (sscanf(line, "raw %599s", hex) == 1)
        raw(hex);
    else if (strcmp(line, "count") == 0) {
        printf("count %lu %lu %lu\n", sent, damaged, asked);
        fflush(stdout);
        return;
    } else if (!(sscanf(line, "unit %15s", unit_text) == 1 || sscanf(line, "cycle %d", &cycling) == 1 ||
                 sscanf(line, "errors %u", &errors_ppm) == 1 ||
                 sscanf(line, "heard %u", &heard_ppm) == 1 ||
                 sscanf(line, "late %u", &late_us) == 1 || sscanf(line, "echo %d", &echoing) == 1 ||
                 sscanf(line, "mute %d", &mute) == 1)) {
        printf("error %s\n", line);
        fflush(stdout);
        return;
    }
    printf("ok\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[700];
    if (argc < 4)
        return 2;
    kind = argv[1];
    link_name = argv[2];
    int asks = strcmp(kind, "gas") == 0;
    int64_t period_us = atoll(argv[3]), due_us = now_us() + period_us;
    if (argc > 4)
        state ^= strtoull(argv[4], NULL, 0) * 2654435761u;
    plug();
    printf("ready\n");
    fflush(stdout);
    setvbuf(stdin, NULL, _IONBF, 0);
    for (;;) {
        struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {asks ? master : -1, POLLIN, 0}};
        int64_t left_us = asks ? 1000000 : due_us - now_us();
        struct timespec wait = {0, left_us > 0 ? left_us % 1000000 * 1000 : 0};
        if (left_us >= 1000000)
            wait.tv_sec = left_us / 1000000;
        if (ppoll(fds, 2, &wait, NULL) < 0)
            return 1;
        if (fds[0].revents) {
            if (!fgets(line, sizeof line, stdin))
                break;
            line[strcspn(line, "\n")] = 0;
            command(line);
        }
        if (fds[1].revents & POLLIN)
            listen_gas();
        if (!asks && now_us() >= due_us) {
            tell();
            due_us = now_us() + period_us;
        }
    }
    unlink(link_name);
    return 0;
}
