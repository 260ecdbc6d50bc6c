"""What vendors' lists and engineers' spreadsheets call a type, an order, an address, a column."""

import re
from typing import Final

from gateway.site.tags_csv import HEADINGS

TYPE_WORDS: Final = {
    word: name
    for name, words in {
        "bool": "BOOL BIT BOOLEAN DIGITAL COIL 布尔 开关量 位",
        "int16": "INT16 INT SHORT INTEGER S16 I16 SINT16 SIGNED 整型 整数 短整型 有符号整型",
        "uint16": "UINT16 UINT WORD USHORT U16 UNSIGNED 无符号整型 无符号短整型 字",
        "int32": "INT32 DINT LONG S32 I32 SINT32 长整型 双整型 有符号长整型",
        "uint32": "UINT32 UDINT DWORD ULONG U32 无符号长整型 双字",
        "int64": "INT64 LINT LONGLONG S64 I64",
        "uint64": "UINT64 ULINT LWORD ULONGLONG U64",
        "float32": "FLOAT32 REAL FLOAT SINGLE F32 REAL32 浮点 浮点型 浮点数 单精度 单精度浮点",
        "float64": "FLOAT64 LREAL DOUBLE F64 REAL64 双精度 双精度浮点",
        "text": "TEXT STRING CHAR 字符串 文本",
    }.items()
    for word in words.split()
}
ORDER_WORDS: Final = {
    word: name
    for name, words in {
        "ABCD": "ABCD 1234 4321H BIG-ENDIAN BIGENDIAN BIG BE AB 大端",
        "BADC": "BADC 2143 BYTE-SWAP BYTESWAP 字节交换",
        "CDAB": "CDAB 3412 WORD-SWAP WORDSWAP 字交换",
        "DCBA": "DCBA LITTLE-ENDIAN LITTLEENDIAN LITTLE LE BA 小端",
    }.items()
    for word in words.split()
}
COLUMN_WORDS: Final = {
    word: column
    for column, words in {
        "id": "tag tagname tag-name name tag-id point-name 标签 标签名 点名 名称 变量名 测点",
        "device": "plc station slave controller 设备名 设备名称 站点 装置",
        "address": "register reg modbus-address node nodeid field 寄存器 寄存器地址 节点",
        "type": "datatype data-type format 数据类型 变量类型 数据格式",
        "order": "byteorder byte-order endian wordorder word-order 字序 字节顺序 大小端",
        "unit": "units eu engineering-unit engineering-units 工程单位 量纲",
        "range": "span measuring-range 量程 量程范围 测量范围",
        "low": "min minimum range-low eu-low low-limit 量程下限 最小值 下量程",
        "high": "max maximum range-high eu-high high-limit 量程上限 最大值 上量程",
        "scale": "scaling factor gain multiplier k 系数 比例 缩放",
        "offset": "bias b 偏置 偏移量",
        "poll": "period interval scan-rate cycle 采集周期 轮询周期 扫描周期",
        "stale_after": "stale timeout 超时 失效",
        "description": "desc comment remark text 说明 备注 注释 描述信息",
    }.items()
    for word in (column, HEADINGS.get(column, column), *words.split())
}

_TRADITIONAL: Final = re.compile(
    r"(?P<table>[0134])[xX]?(?P<number>[0-9]{4,5})(?P<bit>[./][0-9]{1,2})?"
)
_LONG: Final = re.compile(r"(?P<table>[0134])[xX](?P<number>[0-9]{1,5})(?P<bit>[./][0-9]{1,2})?")
_AREAS: Final = {"0": "c", "1": "di", "3": "ir", "4": "hr"}
_OUTER: Final = str.maketrans("", "", " \t\u3000()（）[]")


def type_of(word: str) -> str:
    """The type that a vendor's word means; the word itself where it is none of them."""
    plain = word.upper().replace("_", "").replace(" ", "").replace("-", "")
    return TYPE_WORDS.get(plain, word)


def order_of(word: str) -> str:
    """The byte order that a word means; the word itself where it is none of them."""
    plain = word.upper().replace("_", "-").replace(" ", "-")
    return ORDER_WORDS.get(plain, ORDER_WORDS.get(plain.replace("-", ""), word))


def column_of(heading: str) -> str | None:
    """The column that a heading means, in English or Chinese; None where it is none."""
    plain = heading.strip().lower()
    known = COLUMN_WORDS.get(plain) or COLUMN_WORDS.get(re.sub(r"[ _]+", "-", plain))
    return known or COLUMN_WORDS.get(plain.translate(_OUTER))


def address_of(text: str, base: int, *, numeric: bool = False) -> str:
    """``40101`` or ``4x0101`` as the site file writes it; any other text as it is.

    The traditional form counts from 1, whatever the device's ``base`` is. Of a ``numeric`` point
    ``0x0064`` is no coil but a register in hexadecimal digits, of a table that it does not name.
    """
    plain = text.strip()
    match = _TRADITIONAL.fullmatch(plain) or _LONG.fullmatch(plain)
    if match is None or int(match["number"]) == 0:
        return plain
    if numeric and plain[:2] in ("0x", "0X"):
        return plain
    bit = match["bit"].replace("/", ".") if match["bit"] else ""
    return f"{_AREAS[match['table']]}:{int(match['number']) - 1 + base}{bit}"
