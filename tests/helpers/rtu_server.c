/* A Modbus RTU device that is not ours: Debian's libmodbus answers on a tty.
 *
 *   rtu_server TTY UNIT BAUD CELLS     CELLS of each table, beyond them is an illegal address
 *
 * Standard input carries one command per line, its end ends the server:
 *   hr|ir|c|di ADDRESS VALUE...     set
 *   link COIL DI                    the input follows the coil (an auxiliary contact)
 *   get hr|ir|c|di ADDRESS COUNT    -> "got V V V"
 *   writes COIL                     -> "writes N", how often it was written
 */

#include <errno.h>
#include <modbus/modbus.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CELLS_MAX 65536
#define LINKS_MAX 16

static modbus_t *context;
static modbus_mapping_t *map;
static int link_coil[LINKS_MAX], link_input[LINKS_MAX], link_count;
static unsigned written[CELLS_MAX];
static int cells;

static void follow(void)
{
    for (int i = 0; i < link_count; i++)
        map->tab_input_bits[link_input[i]] = map->tab_bits[link_coil[i]];
}

static void note_writes(const uint8_t *pdu)
{
    int address = pdu[1] << 8 | pdu[2], count = 1;
    if (pdu[0] == MODBUS_FC_WRITE_MULTIPLE_COILS)
        count = pdu[3] << 8 | pdu[4];
    else if (pdu[0] != MODBUS_FC_WRITE_SINGLE_COIL)
        return;
    for (int i = address; i < address + count && i < cells; i++)
        written[i]++;
}

static void serve(void)
{
    uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
    int length = modbus_receive(context, query);
    if (length > 0) {
        modbus_reply(context, query, length, map);
        note_writes(query + modbus_get_header_length(context));
        follow();
    } else if (length < 0) {
        modbus_flush(context); /* what is left of a frame that was damaged */
    }
}

static void set(const char *area, int address, char *values)
{
    for (char *v = strtok(values, " "); v && address < cells; v = strtok(NULL, " "), address++) {
        int value = atoi(v);
        if (strcmp(area, "c") == 0)
            map->tab_bits[address] = value != 0;
        else if (strcmp(area, "di") == 0)
            map->tab_input_bits[address] = value != 0;
        else if (strcmp(area, "ir") == 0)
            map->tab_input_registers[address] = (uint16_t)value;
        else
            map->tab_registers[address] = (uint16_t)value;
    }
    follow();
}

static void get(const char *area, int address, int count)
{
    printf("got");
    for (int i = address; i < address + count && i < cells; i++)
        printf(" %d", strcmp(area, "c") == 0    ? map->tab_bits[i]
                      : strcmp(area, "di") == 0 ? map->tab_input_bits[i]
                      : strcmp(area, "ir") == 0 ? map->tab_input_registers[i]
                                                : map->tab_registers[i]);
    printf("\n");
}

static void command(char *line)
{
    char area[8];
    int a, b, at = 0;
    if (sscanf(line, "link %d %d", &a, &b) == 2 && link_count < LINKS_MAX) {
        link_coil[link_count] = a;
        link_input[link_count++] = b;
        follow();
    } else if (sscanf(line, "get %7s %d %d", area, &a, &b) == 3) {
        get(area, a, b);
    } else if (sscanf(line, "writes %d", &a) == 1) {
        printf("writes %u\n", written[a]);
    } else if (sscanf(line, "%7s %d %n", area, &a, &at) == 2 && at) {
        set(area, a, line + at);
    } else {
        printf("error %s\n", line);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[4096];
    if (argc != 5 || (cells = atoi(argv[4])) < 1 || cells > CELLS_MAX)
        return 2;
    context = modbus_new_rtu(argv[1], atoi(argv[3]), 'N', 8, 1);
    map = modbus_mapping_new(cells, cells, cells, cells);
    if (context == NULL || map == NULL || modbus_set_slave(context, atoi(argv[2])) < 0 ||
        modbus_connect(context) < 0) {
        fprintf(stderr, "rtu_server: %s\n", modbus_strerror(errno));
        return 1;
    }
    /* A frame ends where its bytes do. */
    modbus_set_byte_timeout(context, 0, 2000);
    modbus_set_response_timeout(context, 0, 2000);
    modbus_set_indication_timeout(context, 0, 2000);
    setvbuf(stdin, NULL, _IONBF, 0);
    printf("ready\n");
    fflush(stdout);
    struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {modbus_get_socket(context), POLLIN, 0}};
    for (;;) {
        poll(fds, 2, -1);
        if (fds[1].revents & (POLLHUP | POLLERR))
            return 0;
        if (fds[1].revents)
            serve();
        if (fds[0].revents) {
            if (fgets(line, sizeof line, stdin) == NULL)
                return 0;
            line[strcspn(line, "\n")] = 0;
            command(line);
        }
    }
}
