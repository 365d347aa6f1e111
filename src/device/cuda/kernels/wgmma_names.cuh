// What wgmma's asm names the registers of its result by, for warpgroup.cuh: d[0..4 n + 4] are ALL_n
// in the text and FOURS_n among the operands.
#pragma once

// Names of operands by fours, and the registers that they are.
#define NAMES_0 "%0, %1, %2, %3"
#define NAMES_1 ", %4, %5, %6, %7"
#define NAMES_2 ", %8, %9, %10, %11"
#define NAMES_3 ", %12, %13, %14, %15"
#define NAMES_4 ", %16, %17, %18, %19"
#define NAMES_5 ", %20, %21, %22, %23"
#define NAMES_6 ", %24, %25, %26, %27"
#define NAMES_7 ", %28, %29, %30, %31"
#define NAMES_8 ", %32, %33, %34, %35"
#define NAMES_9 ", %36, %37, %38, %39"
#define NAMES_10 ", %40, %41, %42, %43"
#define NAMES_11 ", %44, %45, %46, %47"
#define NAMES_12 ", %48, %49, %50, %51"
#define NAMES_13 ", %52, %53, %54, %55"
#define NAMES_14 ", %56, %57, %58, %59"
#define NAMES_15 ", %60, %61, %62, %63"
#define NAMES_16 ", %64, %65, %66, %67"
#define NAMES_17 ", %68, %69, %70, %71"
#define NAMES_18 ", %72, %73, %74, %75"
#define NAMES_19 ", %76, %77, %78, %79"
#define NAMES_20 ", %80, %81, %82, %83"
#define NAMES_21 ", %84, %85, %86, %87"
#define NAMES_22 ", %88, %89, %90, %91"
#define NAMES_23 ", %92, %93, %94, %95"
#define NAMES_24 ", %96, %97, %98, %99"
#define NAMES_25 ", %100, %101, %102, %103"
#define NAMES_26 ", %104, %105, %106, %107"
#define NAMES_27 ", %108, %109, %110, %111"
#define NAMES_28 ", %112, %113, %114, %115"
#define NAMES_29 ", %116, %117, %118, %119"
#define NAMES_30 ", %120, %121, %122, %123"
#define NAMES_31 ", %124, %125, %126, %127"
#define FOURS_0 FOUR(0)
#define FOURS_1 FOURS_0, FOUR(4)
#define FOURS_2 FOURS_1, FOUR(8)
#define FOURS_3 FOURS_2, FOUR(12)
#define FOURS_4 FOURS_3, FOUR(16)
#define FOURS_5 FOURS_4, FOUR(20)
#define FOURS_6 FOURS_5, FOUR(24)
#define FOURS_7 FOURS_6, FOUR(28)
#define FOURS_8 FOURS_7, FOUR(32)
#define FOURS_9 FOURS_8, FOUR(36)
#define FOURS_10 FOURS_9, FOUR(40)
#define FOURS_11 FOURS_10, FOUR(44)
#define FOURS_12 FOURS_11, FOUR(48)
#define FOURS_13 FOURS_12, FOUR(52)
#define FOURS_14 FOURS_13, FOUR(56)
#define FOURS_15 FOURS_14, FOUR(60)
#define FOURS_16 FOURS_15, FOUR(64)
#define FOURS_17 FOURS_16, FOUR(68)
#define FOURS_18 FOURS_17, FOUR(72)
#define FOURS_19 FOURS_18, FOUR(76)
#define FOURS_20 FOURS_19, FOUR(80)
#define FOURS_21 FOURS_20, FOUR(84)
#define FOURS_22 FOURS_21, FOUR(88)
#define FOURS_23 FOURS_22, FOUR(92)
#define FOURS_24 FOURS_23, FOUR(96)
#define FOURS_25 FOURS_24, FOUR(100)
#define FOURS_26 FOURS_25, FOUR(104)
#define FOURS_27 FOURS_26, FOUR(108)
#define FOURS_28 FOURS_27, FOUR(112)
#define FOURS_29 FOURS_28, FOUR(116)
#define FOURS_30 FOURS_29, FOUR(120)
#define FOURS_31 FOURS_30, FOUR(124)
#define FOUR(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define ALL_1 NAMES_0 NAMES_1
#define ALL_2 ALL_1 NAMES_2
#define ALL_3 ALL_2 NAMES_3
#define ALL_4 ALL_3 NAMES_4
#define ALL_5 ALL_4 NAMES_5
#define ALL_6 ALL_5 NAMES_6
#define ALL_7 ALL_6 NAMES_7
#define ALL_8 ALL_7 NAMES_8
#define ALL_9 ALL_8 NAMES_9
#define ALL_10 ALL_9 NAMES_10
#define ALL_11 ALL_10 NAMES_11
#define ALL_12 ALL_11 NAMES_12
#define ALL_13 ALL_12 NAMES_13
#define ALL_14 ALL_13 NAMES_14
#define ALL_15 ALL_14 NAMES_15
#define ALL_16 ALL_15 NAMES_16
#define ALL_17 ALL_16 NAMES_17
#define ALL_18 ALL_17 NAMES_18
#define ALL_19 ALL_18 NAMES_19
#define ALL_20 ALL_19 NAMES_20
#define ALL_21 ALL_20 NAMES_21
#define ALL_22 ALL_21 NAMES_22
#define ALL_23 ALL_22 NAMES_23
#define ALL_24 ALL_23 NAMES_24
#define ALL_25 ALL_24 NAMES_25
#define ALL_26 ALL_25 NAMES_26
#define ALL_27 ALL_26 NAMES_27
#define ALL_28 ALL_27 NAMES_28
#define ALL_29 ALL_28 NAMES_29
#define ALL_30 ALL_29 NAMES_30
#define ALL_31 ALL_30 NAMES_31
